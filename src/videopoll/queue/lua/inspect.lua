-- Looks a job up, in one step, and changes nothing.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7]     letters
-- KEYS[8]     watched
-- KEYS[9..14] record, outbox, lock, attempts, completed, watch
-- ARGV        id, what the key of a lane of polls starts with, and that of one of sends
-- returns     now ms, record, outbox, lock, attempts, completed, schedule ms, lease ms, token,
--             faults, delivery ms, dead letter, watch, when that ends ms (nil for what is not there),
--             1 if the id is surely not in the list

local queue, schedule, inflight, leases, faults, deliveries = unpack(KEYS, 1, 6)
local id = ARGV[1]
local SHORT = 1000 -- a list up to this length is searched for the id
local time = redis.call('TIME')
local found = redis.call('MGET', unpack(KEYS, 9, 14))

-- At a half millisecond stands what waits for its tenant's turn: since when it is due is in its lane (lanes.lua).
local function due_in(place, start)
  local due = redis.call('ZSCORE', place, id)
  if not due or tonumber(due) % 1 ~= 0.5 then return due end
  local fine, fields = pcall(cjson.decode, found[2] or found[1] or '')
  if fine and found[2] then fields = type(fields) == 'table' and fields['record'] end
  local tenant = fine and type(fields) == 'table' and fields['tenant']
  return redis.call('ZSCORE', start .. (type(tenant) == 'string' and tenant or ''), id) or due
end

local unlisted = redis.call('LLEN', queue) <= SHORT and not redis.call('LPOS', queue, id)
return {
  string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
  found[1], found[2], found[3], found[4], found[5],
  due_in(schedule, ARGV[2]), redis.call('ZSCORE', inflight, id), redis.call('HGET', leases, id),
  redis.call('HGET', faults, id), due_in(deliveries, ARGV[3]), redis.call('HGET', KEYS[7], id),
  found[6], redis.call('ZSCORE', KEYS[8], id),
  unlisted and 1 or 0,
}
