-- Takes up jobs that have a record and are in no schedule, flight, outbox or lock.
-- (The caller leaves out the ids that stand in the list.)
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   five a job: record, outbox, lock, attempts, completed
-- ARGV[1..5]  ms that nobody must have polled the job for, attempts seconds, record seconds,
--             initial delay ms (a job that was never polled is not due before that),
--             when the list was read, ms (a job that is younger was not lost, it has just come in)
-- ARGV[6..]   one a job: id
-- returns     1 (adopted) or 0 a job

local schedule, inflight, deliveries = KEYS[2], KEYS[3], KEYS[6]
local idle_ms, attempts_s, record_s = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local initial_delay_ms, looked_at_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
idle_ms = math.max(idle_ms, now - looked_at_ms)

local answers = {}
for n = 1, #ARGV - 5 do
  local id = ARGV[5 + n]
  local record, outbox, lock, attempts = unpack(KEYS, 2 + 5 * n, 5 + 5 * n)
  answers[n] = 0
  local found = redis.call('MGET', record, attempts)
  if found[1] and redis.call('EXISTS', outbox, lock) == 0
    and not redis.call('ZSCORE', schedule, id) and not redis.call('ZSCORE', inflight, id)
    and not redis.call('ZSCORE', deliveries, id) then
    -- How long has nobody polled it? Its counter is set to its full life by every poll,
    -- and before the first poll its record was.
    local left_ms = redis.call('PTTL', found[2] and attempts or record)
    local whole_ms = (found[2] and attempts_s or record_s) * 1000
    if left_ms < 0 or whole_ms - left_ms >= idle_ms then
      local due = now
      if not found[2] and left_ms >= 0 then due = math.max(now, now - (whole_ms - left_ms) + initial_delay_ms) end
      redis.call('ZADD', schedule, string.format('%.0f', due), id)
      answers[n] = 1
    end
  end
end
return answers
