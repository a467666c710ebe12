-- Counts jobs by where they are, in one step and in constant time.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..8]  dead, watched
-- returns     now ms, list, schedule, inflight, deliveries, dead, first due ms of the schedule or -1, watched

local time = redis.call('TIME')
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return {
  now,
  redis.call('LLEN', KEYS[1]), redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]),
  redis.call('ZCARD', KEYS[6]), redis.call('ZCARD', KEYS[7]),
  first[2] and string.format('%.0f', tonumber(first[2])) or '-1',
  redis.call('ZCOUNT', KEYS[8], now, '+inf'),
}
