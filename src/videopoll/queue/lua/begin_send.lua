-- Notes in the outbox that a send begins, and renews the lease, each only if it is still held.
-- After a crash the note says that the fate of a send is unknown.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   one a job: outbox
-- ARGV        five a job: id, token, outbox JSON, seconds that it lives, lease ms
-- returns     1 or 0 (lease lost) a job

local inflight, leases = KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local answers = {}
for n = 1, #ARGV / 5 do
  local id, token, entry, keep_s, lease_ms = unpack(ARGV, 5 * n - 4, 5 * n)
  if redis.call('HGET', leases, id) == token then
    redis.call('SET', KEYS[6 + n], entry, 'EX', keep_s)
    redis.call('ZADD', inflight, string.format('%.0f', now + lease_ms), id)
    answers[n] = 1
  else
    answers[n] = 0
  end
end
return answers
