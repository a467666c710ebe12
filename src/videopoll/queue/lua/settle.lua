-- Ends jobs: writes what is left of them (video:completed, a dead letter), then clears all
-- their keys, each only if its lease is still held, or at least nobody else's. Run twice, it gives the same answer.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..8]  dead, letters
-- KEYS[9..]   five a job: record, outbox, lock, attempts, completed
-- ARGV[1..3]  seconds that completed lives, dead letters at most, seconds that they live
-- ARGV[4..]   five a job: id, token, completed JSON or '', dead letter JSON or '',
--             '1' if this settles an id that had no record
-- returns     a job: 1 settled, 0 lease lost, 2 there is a record by now (the job is on the schedule)

local schedule, inflight, leases, faults, deliveries = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local dead, letters = KEYS[7], KEYS[8]
local completed_s, most_dead, dead_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local BATCH = 100 -- dead letters that are let go in one call
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function forget(ids)
  if #ids == 0 then return end
  redis.call('HDEL', letters, unpack(ids))
  redis.call('ZREM', dead, unpack(ids))
end

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

local answers, died = {}, false
for n = 1, (#ARGV - 3) / 5 do
  local id, token, ended, letter, bare = unpack(ARGV, 5 * n - 1, 5 * n + 3)
  local record, outbox, lock, attempts, completed = unpack(KEYS, 4 + 5 * n, 8 + 5 * n)
  local holder = redis.call('HGET', leases, id)
  if not holder and redis.call('ZSCORE', inflight, id) and redis.call('EXISTS', record, outbox) > 0 then
    -- The leases are gone (somebody renamed or deleted their key), and nobody has taken the job over since:
    -- it is not known to be somebody else's, and what became of it is.
    holder = token
  end
  local strangers = letter ~= '' and is_strangers(id, redis.call('MGET', record)[1])
  if holder == token and bare == '1' and redis.call('EXISTS', record, outbox) > 0 then
    -- The id was enqueued again while its old self was on the way to the dead letters.
    redis.call('ZADD', schedule, string.format('%.0f', now), id)
    redis.call('HDEL', leases, id)
    redis.call('ZREM', inflight, id)
    answers[n] = 2
  elseif holder == token then
    if ended ~= '' then redis.call('SET', completed, ended, 'EX', completed_s) end
    if letter ~= '' then
      -- A settlement may be cut off after its letter was stored and the record deleted. Whoever
      -- takes the id over finds it bare, and must not replace that letter by one that says less.
      if redis.call('EXISTS', record, outbox) > 0 or redis.call('HEXISTS', letters, id) == 0 then
        redis.call('HSET', letters, id, letter)
      end
      redis.call('ZADD', dead, string.format('%.0f', now), id)
      died = true
    end
    local locked = redis.call('MGET', lock)[1]
    if not locked or string.sub(locked, 1, 3) == 'vp:' then redis.call('DEL', lock) end
    redis.call('DEL', outbox, attempts, unpack(strangers and {} or {record}))
    redis.call('HDEL', faults, id)
    redis.call('ZREM', schedule, id)
    redis.call('ZREM', deliveries, id)
    redis.call('HDEL', leases, id)
    redis.call('ZREM', inflight, id)
    if letter ~= '' then redis.pcall('PUBLISH', outbox, id) end
    answers[n] = 1
  elseif not holder and redis.call('EXISTS', outbox, unpack(strangers and {} or {record})) == 0
    and ((ended ~= '' and redis.call('MGET', completed)[1] == ended) or redis.call('HGET', letters, id) == letter) then
    -- This very settlement has been carried out: its reply was lost.
    answers[n] = 1
  else
    answers[n] = 0
  end
end

if died then
  forget(redis.call('ZRANGEBYSCORE', dead, '-inf', string.format('%.0f', now - dead_s * 1000), 'LIMIT', 0, BATCH))
  local excess = redis.call('ZCARD', dead) - most_dead
  if excess > 0 then forget(redis.call('ZRANGE', dead, 0, math.min(excess, BATCH) - 1)) end
  redis.call('EXPIRE', dead, dead_s)
  redis.call('EXPIRE', letters, dead_s)
end
return answers
