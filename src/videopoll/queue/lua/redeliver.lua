-- Puts deliveries back until their next try, each only if its lease is still held.
-- Run twice, it gives the same answer.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   one a job: outbox
-- ARGV        five a job: id, token, outbox JSON, seconds that it lives, due ms
-- returns     1 or 0 (lease lost) a job

local inflight, leases, deliveries = KEYS[3], KEYS[4], KEYS[6]

local answers = {}
for n = 1, #ARGV / 5 do
  local id, token, entry, keep_s, due = unpack(ARGV, 5 * n - 4, 5 * n)
  local holder = redis.call('HGET', leases, id)
  if holder == token then
    redis.call('SET', KEYS[6 + n], entry, 'EX', keep_s)
    redis.call('ZADD', deliveries, due, id)
    redis.call('HDEL', leases, id)
    redis.call('ZREM', inflight, id)
    answers[n] = 1
  elseif not holder and tonumber(redis.call('ZSCORE', deliveries, id) or 'nan') == tonumber(due)
    and redis.call('MGET', KEYS[6 + n])[1] == entry then
    -- This very call has been carried out: its reply was lost.
    answers[n] = 1
  else
    answers[n] = 0
  end
end
return answers
