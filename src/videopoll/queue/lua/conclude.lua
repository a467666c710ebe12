-- Ends the polling of jobs: stores each outcome in the outbox, renews the lease, then clears what
-- the polling needed. The same worker starts the delivery, and if it dies, the next one finds
-- the outbox (which may note already that the send begins, see begin_send.lua).
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   five a job: record, outbox, lock, attempts, completed
-- ARGV[1]     seconds that a lock lives
-- ARGV[2..]   five a job: id, token, outbox JSON, seconds that it lives, lease ms
-- returns     a job: 1 stored, 0 lease lost, 2 finished by another kind of worker,
--             3 another kind of worker has the lock (the job is back on the schedule)

local schedule, inflight, leases, faults = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lock_s = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local answers = {}
for n = 1, (#ARGV - 1) / 5 do
  local id, token, entry, keep_s, lease_ms = unpack(ARGV, 5 * n - 3, 5 * n + 1)
  local record, outbox, lock, attempts, completed = unpack(KEYS, 2 + 5 * n, 6 + 5 * n)
  if redis.call('HGET', leases, id) ~= token then
    answers[n] = 0
  else
    local found = redis.call('MGET', record, outbox, lock, completed)
    local foreign = found[3] and string.sub(found[3], 1, 3) ~= 'vp:'
    if found[1] and not found[2] and foreign then
      -- Our lock vanished (other workers delete it blindly) and one of them took it: it may be
      -- sending this very outcome. Let it, and look again when its lock ends.
      local left_ms = redis.call('PTTL', lock)
      local due = now + (left_ms >= 0 and left_ms + 1 or lock_s * 1000)
      redis.call('ZADD', schedule, string.format('%.0f', due), id)
      redis.call('HDEL', leases, id)
      redis.call('ZREM', inflight, id)
      answers[n] = 3
    elseif not found[1] and not found[2] and found[4] then
      redis.call('DEL', attempts)
      if found[3] and not foreign then redis.call('DEL', lock) end
      redis.call('HDEL', faults, id)
      redis.call('HDEL', leases, id)
      redis.call('ZREM', inflight, id)
      answers[n] = 2
    else
      redis.call('SET', outbox, entry, 'EX', keep_s)
      redis.call('ZADD', inflight, string.format('%.0f', now + lease_ms), id)
      redis.call('DEL', record, attempts)
      if not foreign then redis.call('DEL', lock) end
      redis.call('HDEL', faults, id)
      redis.call('ZREM', schedule, id)
      -- Whoever waits for the outcome is told; a user without the right to publish loses nothing else.
      redis.pcall('PUBLISH', outbox, id)
      answers[n] = 1
    end
  end
end
return answers
