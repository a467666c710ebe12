-- Looks a job up, in one step, and changes nothing.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7]     letters
-- KEYS[8..12] record, outbox, lock, attempts, completed
-- ARGV        id
-- returns     now ms, record, outbox, lock, attempts, completed, schedule ms, lease ms, token,
--             faults, delivery ms, dead letter (nil for what is not there)

local _, schedule, inflight, leases, faults, deliveries = unpack(KEYS, 1, 6)
local id = ARGV[1]
local time = redis.call('TIME')
local found = redis.call('MGET', unpack(KEYS, 8, 12))
return {
  string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
  found[1], found[2], found[3], found[4], found[5],
  redis.call('ZSCORE', schedule, id), redis.call('ZSCORE', inflight, id), redis.call('HGET', leases, id),
  redis.call('HGET', faults, id), redis.call('ZSCORE', deliveries, id), redis.call('HGET', KEYS[7], id),
}
