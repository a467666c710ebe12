-- Gives polled jobs back unfinished, each only if its lease is still held, without counting the poll:
-- to the list, which wakes a worker, or to the schedule.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   two a job: lock, attempts
-- ARGV        five a job: id, token, attempts to restore, ms that they still live, due ms or '' for at once
-- returns     1 or 0 (lease lost) a job

local queue, schedule, inflight, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local answers = {}
for n = 1, #ARGV / 5 do
  local id, token, restore, left_ms, due = unpack(ARGV, 5 * n - 4, 5 * n)
  local lock, attempts = KEYS[5 + 2 * n], KEYS[6 + 2 * n]
  if redis.call('HGET', leases, id) == token then
    if tonumber(restore) < 1 then
      redis.call('DEL', attempts)
    else
      redis.call('SET', attempts, restore, 'PX', left_ms)
    end
    if due == '' then
      redis.call('RPUSH', queue, id)
    else
      redis.call('ZADD', schedule, due, id)
    end
    redis.call('HDEL', leases, id)
    redis.call('ZREM', inflight, id)
    if redis.call('MGET', lock)[1] == 'vp:' .. token then redis.call('DEL', lock) end
    answers[n] = 1
  else
    answers[n] = 0
  end
end
return answers
