-- Looks a job up, in one step, and changes nothing.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7]     letters
-- KEYS[8]     watched
-- KEYS[9..14] record, outbox, lock, attempts, completed, watch
-- ARGV        id
-- returns     now ms, record, outbox, lock, attempts, completed, schedule ms, lease ms, token,
--             faults, delivery ms, dead letter, watch, when that ends ms (nil for what is not there),
--             1 if the id is surely not in the list

local queue, schedule, inflight, leases, faults, deliveries = unpack(KEYS, 1, 6)
local id = ARGV[1]
local SHORT = 1000 -- a list up to this length is searched for the id
local time = redis.call('TIME')
local found = redis.call('MGET', unpack(KEYS, 9, 14))
local unlisted = redis.call('LLEN', queue) <= SHORT and not redis.call('LPOS', queue, id)
return {
  string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
  found[1], found[2], found[3], found[4], found[5],
  redis.call('ZSCORE', schedule, id), redis.call('ZSCORE', inflight, id), redis.call('HGET', leases, id),
  redis.call('HGET', faults, id), redis.call('ZSCORE', deliveries, id), redis.call('HGET', KEYS[7], id),
  found[6], redis.call('ZSCORE', KEYS[8], id),
  unlisted and 1 or 0,
}
