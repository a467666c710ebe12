-- Counts jobs by where they are, in one step and in constant time, but for a look at the lanes of tenants.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..9]  dead, watched, lanes
-- ARGV        what the key of a lane starts with
-- returns     now ms, list, schedule, inflight, deliveries, dead, first due ms of a poll or -1, watched

local time = redis.call('TIME')
local MOST_LANES = 1000 -- that are looked at for who has waited longest
local first = tonumber(redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2])
for _, tenant in ipairs(redis.call('ZRANGE', KEYS[9], 0, MOST_LANES - 1)) do
  local due = tonumber(redis.call('ZRANGE', ARGV[1] .. tenant, 0, 0, 'WITHSCORES')[2])
  if due then first = math.min(first or due, due) end
end
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return {
  now,
  redis.call('LLEN', KEYS[1]), redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]),
  redis.call('ZCARD', KEYS[6]), redis.call('ZCARD', KEYS[7]),
  first and string.format('%.0f', first) or '-1',
  redis.call('ZCOUNT', KEYS[8], now, '+inf'),
}
