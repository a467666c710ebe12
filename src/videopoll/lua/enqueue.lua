-- Takes jobs in: stores each record if it is new, and pushes its id on the list.
-- Run twice, it gives the same answer or "known", and leaves one job.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   five a job: record, outbox, lock, attempts, completed
-- ARGV[1]     seconds that a record lives
-- ARGV[2..]   three a job: id, record's JSON before and after the digits of startTime
-- returns     one of "created", "known", "delivering", "finished" a job

local queue, schedule, inflight, deliveries = KEYS[1], KEYS[2], KEYS[3], KEYS[6]
local record_ttl_s = ARGV[1]
-- The producer pushes at most this far back for an id that may be in the list already:
-- a call repeated after a lost reply finds its id among the newest.
local LOOK_BACK = 1000

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

-- A queue key of another type must fail here, before a record is stored.
redis.call('LLEN', queue)

local answers = {}
local count = (#KEYS - 6) / 5
for n = 1, count do
  local record, outbox, completed = KEYS[2 + 5 * n], KEYS[3 + 5 * n], KEYS[6 + 5 * n]
  local id, head, tail = ARGV[3 * n - 1], ARGV[3 * n], ARGV[3 * n + 1]
  local found = redis.call('MGET', outbox, completed)
  if found[1] then
    answers[n] = 'delivering'
  elseif found[2] then
    answers[n] = 'finished'
  elseif redis.call('SET', record, head .. string.format('%.0f', now_ms) .. tail, 'NX', 'EX', record_ttl_s) then
    redis.call('LPUSH', queue, id)
    answers[n] = 'created'
  else
    -- An earlier call may have been cut off between its SET and its LPUSH.
    if not redis.call('ZSCORE', schedule, id) and not redis.call('ZSCORE', inflight, id)
      and not redis.call('ZSCORE', deliveries, id)
      and not redis.call('LPOS', queue, id, 'MAXLEN', LOOK_BACK) then
      redis.call('LPUSH', queue, id)
    end
    answers[n] = 'known'
  end
end
return answers
