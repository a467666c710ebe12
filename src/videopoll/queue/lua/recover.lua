-- Takes up jobs that have a record and are in no schedule, flight or outbox: those under the lock
-- of a worker of another kind for when that lock ends, as it may have ended with its holder.
-- (The caller leaves out the ids that stand in the list.)
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   five a job: record, outbox, lock, attempts, completed
-- ARGV[1..5]  ms that nobody must have polled the job for, attempts seconds, record seconds,
--             initial delay ms (a job that was never polled is not due before that),
--             when the list was read, ms (a job that is younger was not lost, it has just come in)
-- ARGV[6]     lock seconds (a lock without an end gets this one)
-- ARGV[7..]   one a job: id
-- returns     1 (adopted) or 0 a job

local schedule, inflight, deliveries = KEYS[2], KEYS[3], KEYS[6]
local idle_ms, attempts_s, record_s = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local initial_delay_ms, looked_at_ms, lock_s = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
idle_ms = math.max(idle_ms, now - looked_at_ms)

-- Below the name of a record of ours may stand any key of a queue with another prefix (of an earlier
-- version, which let it be built): then the id has a word of our keys in it. Such a record is ours
-- only if it names the job.
local WORDS = {':job:', ':lock:', ':attempts:', ':completed:', ':poll:', ':tool:'}
local function is_strangers(id, record)
  local below = ':' .. id
  local inside = false
  for _, word in ipairs(WORDS) do inside = inside or string.find(below, word, 1, true) end
  if not inside or not record then return false end
  local fine, fields = pcall(cjson.decode, record)
  return not (fine and type(fields) == 'table' and fields['jobId'] == id)
end

local ids, scores = {}, {}
for n = 1, #ARGV - 6 do ids[n] = ARGV[6 + n] end
-- Most jobs are somewhere: one command for all of them tells so.
for index, key in ipairs({schedule, inflight, deliveries}) do
  scores[index] = redis.call('ZMSCORE', key, unpack(ids))
end

local answers = {}
for n, id in ipairs(ids) do
  local record, outbox, lock, attempts = unpack(KEYS, 2 + 5 * n, 5 + 5 * n)
  answers[n] = 0
  local found = {}
  if not scores[1][n] and not scores[2][n] and not scores[3][n] then
    found = redis.call('MGET', record, attempts, lock)
  end
  if found[1] and not is_strangers(id, found[1]) and redis.call('EXISTS', outbox) == 0 then
    -- How long has nobody polled it? Its counter is set to its full life by every poll; before the
    -- first one it has waited since its start. (Whoever keeps a record renews it: its life tells the
    -- least that it can be, and matters where a producer's clock is wrong.)
    local left_ms = redis.call('PTTL', found[2] and attempts or record)
    local age_ms = left_ms >= 0 and (found[2] and attempts_s or record_s) * 1000 - left_ms
    if age_ms and not found[2] then
      local fine, fields = pcall(cjson.decode, found[1])
      local start = fine and type(fields) == 'table' and fields['startTime']
      if type(start) == 'number' then age_ms = math.max(age_ms, now - start) end
    end
    if not age_ms or age_ms >= idle_ms then
      local due = now
      if not found[2] and age_ms then due = math.max(now, now - age_ms + initial_delay_ms) end
      -- (A lock of ours without a lease is nobody's.)
      if found[3] and string.sub(found[3], 1, 3) ~= 'vp:' then
        local locked_ms = redis.call('PTTL', lock)
        if locked_ms < 0 then
          redis.call('EXPIRE', lock, lock_s)
          locked_ms = lock_s * 1000
        end
        due = math.max(due, now + locked_ms + 1)
      end
      redis.call('ZADD', schedule, string.format('%.0f', due), id)
      answers[n] = 1
    end
  end
end
return answers
