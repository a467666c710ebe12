-- Cancels a job, unless its outcome is being sent at this moment, or may have been sent (nobody
-- knows yet), or may be by a worker of another kind that has it in hand, or it has ended.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..11] record, outbox, lock, attempts, completed
-- ARGV        id, completed JSON, seconds that it lives,
--             outbox JSON with the notice or '', seconds that it lives, lock seconds
-- returns     "cancelled", "sending", "finished" or "unknown"

local queue, schedule, inflight, leases, faults, deliveries = unpack(KEYS, 1, 6)
local record, outbox, lock, attempts, completed = unpack(KEYS, 7, 11)
local id, ended, ended_s, notice, notice_s, lock_s = unpack(ARGV)
local SHORT = 1000 -- a list up to this length is searched for the id

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

local found = redis.call('MGET', record, outbox, lock, completed)
if is_strangers(id, found[1]) then found[1] = false end
if found[2] then
  if redis.call('ZSCORE', inflight, id) then return 'sending' end
  -- A send began whose end nobody knows: the user may have the video, and its URL is nowhere else.
  local fine, entry = pcall(cjson.decode, found[2])
  if fine and type(entry) == 'table' and type(entry['sending']) == 'number' then return 'sending' end
elseif not found[1] then
  return found[4] and 'finished' or 'unknown'
elseif found[3] and string.sub(found[3], 1, 3) ~= 'vp:' then
  -- It polls under its lock, and sends without a further look at the record.
  if redis.call('PTTL', lock) < 0 then redis.call('EXPIRE', lock, lock_s) end
  return 'sending'
elseif found[4] then
  local fine, fields = pcall(cjson.decode, found[4])
  fields = fine and type(fields) == 'table' and fields or {}
  if fields['delivered'] == true or fields['acceptedAt'] then return 'finished' end
  -- It died around its send: nobody knows whether the user has the video, and whoever goes on with it sends it
  -- again. (An earlier call of this script may have been cut off before the record went.)
  if fields['outcome'] ~= 'cancelled' then return 'sending' end
end

local time = redis.call('TIME')
if notice ~= '' then
  redis.call('SET', outbox, notice, 'EX', notice_s)
  redis.call('ZADD', deliveries, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), id)
else
  redis.call('SET', completed, ended, 'EX', ended_s)
  redis.call('DEL', outbox)
  redis.call('ZREM', deliveries, id)
end
redis.call('DEL', attempts, unpack(found[1] and {record} or {}))
if found[3] and string.sub(found[3], 1, 3) == 'vp:' then redis.call('DEL', lock) end
redis.call('HDEL', faults, id)
redis.call('ZREM', schedule, id)
-- Without its token, a worker that is polling the job changes nothing any more.
redis.call('HDEL', leases, id)
redis.call('ZREM', inflight, id)
if redis.call('LLEN', queue) <= SHORT then redis.call('LREM', queue, 0, id) end
redis.pcall('PUBLISH', outbox, id)
return 'cancelled'
