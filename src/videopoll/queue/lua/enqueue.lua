-- Takes jobs in: stores each record if it is new, and pushes its id on the list.
-- Run twice, it gives the same answer or "known", and leaves one job.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7]     layout
-- KEYS[8..]   five a job: record, outbox, lock, attempts, completed;
--             then, if some of these jobs have a tenant, the mark which says that
-- ARGV[1..4]  seconds that a record lives, attempts seconds,
--             ms after which a job that nobody has polled is lost,
--             how many partitions the producer knows of
-- ARGV[5..]   three a job: id, record's JSON before and after the digits of startTime
-- returns     one of "created", "known", "delivering", "finished" a job;
--             or the number of partitions, if it is more than the producer knows of: then nothing was taken in

local queue, schedule, inflight, deliveries = KEYS[1], KEYS[2], KEYS[3], KEYS[6]
local record_ttl_s, attempts_s, idle_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
-- The producer pushes at most this far back for an id that may be in the list already:
-- a call repeated after a lost reply finds its id among the newest.
local LOOK_BACK = 1000
-- A producer of another kind pushes the id some 5 s after it has stored the record.
local PUSHED_BY_MS = 15000
-- Claims keep tenants apart until so long after the last job that had one.
local TENANTS_S = 86400

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

-- With more partitions the ids may be at home elsewhere.
local partitions = tonumber(string.match(redis.call('GET', KEYS[7]) or '', '^%d+') or '1')
if partitions > tonumber(ARGV[4]) then return partitions end

-- A queue key of another type must fail here, before a record is stored.
redis.call('LLEN', queue)

-- Between two polls a job of a worker of another kind stands nowhere but in its memory. A second id
-- in the list would start a second chain of polls, and both would use up the attempts that they share.
local function in_their_hands(keys, found, head, tail)
  local record, lock, attempts = found[1], found[4], found[5]
  if lock and string.sub(lock, 1, 3) ~= 'vp:' and redis.call('PTTL', keys.lock) >= 0 then return true end
  if attempts then
    local left_ms = redis.call('PTTL', keys.attempts)
    return left_ms >= 0 and attempts_s * 1000 - left_ms < idle_ms
  end
  -- An earlier call of ours may have been cut off between its SET and its LPUSH.
  if not record or (string.sub(record, 1, #head) == head and string.sub(record, -#tail) == tail) then return false end
  local left_ms = redis.call('PTTL', keys.record)
  return left_ms >= 0 and record_ttl_s * 1000 - left_ms < PUSHED_BY_MS
end

local answers = {}
local count = (#ARGV - 4) / 3
local tenants = KEYS[8 + 5 * count]
if tenants then redis.call('SET', tenants, '1', 'EX', TENANTS_S) end
for n = 1, count do
  local record, outbox, lock, attempts, completed = unpack(KEYS, 3 + 5 * n, 7 + 5 * n)
  local id, head, tail = ARGV[3 * n + 2], ARGV[3 * n + 3], ARGV[3 * n + 4]
  local found = redis.call('MGET', record, outbox, completed, lock, attempts)
  -- What is left of a life whose record has expired does not count in the next one.
  if not found[1] and not found[2] and not found[3] and found[5] then redis.call('DEL', attempts) end
  if found[2] then
    answers[n] = 'delivering'
  elseif found[3] then
    answers[n] = 'finished'
  elseif redis.call('SET', record, head .. string.format('%.0f', now_ms) .. tail, 'NX', 'EX', record_ttl_s) then
    redis.call('LPUSH', queue, id)
    answers[n] = 'created'
  else
    if not redis.call('ZSCORE', schedule, id) and not redis.call('ZSCORE', inflight, id)
      and not redis.call('ZSCORE', deliveries, id)
      and not in_their_hands({record = record, lock = lock, attempts = attempts}, found, head, tail)
      and not redis.call('LPOS', queue, id, 'MAXLEN', LOOK_BACK) then
      redis.call('LPUSH', queue, id)
    end
    answers[n] = 'known'
  end
end
return answers
