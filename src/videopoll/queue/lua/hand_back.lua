-- Hands scheduled jobs, and those of dead workers, to workers of another kind: their ids go to the
-- list, the longest due first, and nothing of ours is left of them.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- ARGV        prefix, ranks of the schedule to pass over, ranks to look at, record seconds,
--             attempts seconds, lock seconds, ms after which a job that nobody has polled is lost,
--             '1' to look at the leases of dead workers, too
-- returns     ranks looked at, ranks of them that stay, jobs handed, jobs that they have in their
--             memory, jobs that have ended, jobs under their lock (which stay), leases that go on,
--             outcomes that wait or are being sent, ids without a record whose end nobody knows

local queue, schedule, inflight, leases, faults, deliveries = unpack(KEYS, 1, 6)
local prefix, pass, most, record_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local attempts_s, lock_s, idle_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local NAMES = {':job:', ':poll:outbox:', ':lock:', ':attempts:', ':completed:'}
local THEIR_INTERVAL_MS = 10000 -- how often they poll a job
local LOOK, MOST_EXPIRED = 5000, 1000 -- ids at each end of the list, and expired leases, that are looked at

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local waiting = redis.call('ZRANGE', schedule, pass, pass + most - 1)
local expired = {}
if ARGV[8] == '1' then expired = redis.call('ZRANGEBYSCORE', inflight, '-inf', now, 'LIMIT', 0, MOST_EXPIRED) end

local listed = {}
for _, ends in ipairs({{0, LOOK - 1}, {-LOOK, -1}}) do
  for _, id in ipairs(redis.call('LRANGE', queue, ends[1], ends[2])) do listed[id] = true end
end

local handed, theirs, ended, locked, gone = 0, 0, 0, 0, {}

-- Drops what is ours of a job. Whoever died with it may have left a lock that would keep it from others.
local function forget(id, keys, found)
  if found[3] and string.sub(found[3], 1, 3) == 'vp:' then redis.call('DEL', keys[3]) end
  redis.call('HDEL', faults, id)
  redis.call('ZREM', schedule, id)
  redis.call('HDEL', leases, id)
  redis.call('ZREM', inflight, id)
end

-- Whether the counter has moved on since our last poll: then a worker of another kind has the job.
local function in_their_memory(id, keys, found)
  local noted = string.match(redis.call('HGET', faults, id) or '', '^%d+:%d*:(%d+)')
  if not noted or (tonumber(found[4]) or 0) <= tonumber(noted) then return false end
  local left_ms = redis.call('PTTL', keys[4])
  return left_ms >= 0 and attempts_s * 1000 - left_ms < idle_ms
end

-- They poll 30 times in 300 s. A worker of ours that polls more often has used up what they need for the rest.
local function leave_attempts(keys, found)
  local fine, fields = pcall(cjson.decode, found[1])
  local start = fine and type(fields) == 'table' and fields['startTime']
  local used = tonumber(found[4])
  if type(start) ~= 'number' or not used then return end
  local most = math.max(0, math.floor((now - start) / THEIR_INTERVAL_MS))
  if used > most then redis.call('SET', keys[4], string.format('%.0f', most), 'KEEPTTL') end
end

-- Whether a worker of ours has told the user, or a cancel has ended it: then a record was written again after that.
local function is_left_over(completed)
  local fine, fields = pcall(cjson.decode, completed)
  if not fine or type(fields) ~= 'table' then return false end
  return fields['delivered'] == true or fields['acceptedAt'] ~= nil or fields['outcome'] == 'cancelled'
end

local function hand(id, is_lease)
  local keys = {}
  for index, name in ipairs(NAMES) do keys[index] = prefix .. name .. id end
  local found = redis.call('MGET', unpack(keys))
  if found[2] then
    if is_lease then return end
    -- Its polling is over: the outbox has it.
    if not redis.call('ZSCORE', inflight, id) then redis.call('ZADD', deliveries, 'NX', now, id) end
    redis.call('ZREM', schedule, id)
  elseif not found[1] then
    if found[5] then ended = ended + 1 else gone[#gone + 1] = id end
    forget(id, keys, found)
  elseif found[3] and string.sub(found[3], 1, 3) ~= 'vp:' then
    -- They drop an id whose lock is held: it would be lost if its holder has died.
    if redis.call('PTTL', keys[3]) < 0 then redis.call('EXPIRE', keys[3], lock_s) end
    locked = locked + 1
  elseif found[5] and is_left_over(found[5]) then
    redis.call('DEL', keys[1], keys[4])
    ended = ended + 1
    forget(id, keys, found)
  elseif in_their_memory(id, keys, found) then
    theirs = theirs + 1
    forget(id, keys, found)
  else
    local left_ms = redis.call('PTTL', keys[1])
    if left_ms >= 0 and left_ms < record_s * 500 then redis.call('EXPIRE', keys[1], record_s) end
    leave_attempts(keys, found)
    if found[3] then redis.call('DEL', keys[3]) end
    if not listed[id] then redis.call('LPUSH', queue, id) end
    handed = handed + 1
    forget(id, keys, {})
  end
end

for _, id in ipairs(waiting) do
  -- A lease covers its job, wherever else the id still stands.
  if redis.call('ZSCORE', inflight, id) then redis.call('ZREM', schedule, id) else hand(id, false) end
end
local stay = locked
for _, id in ipairs(expired) do hand(id, true) end

local held = 0
local sends = redis.call('ZCARD', deliveries)
for _, id in ipairs(redis.call('ZRANGE', inflight, 0, MOST_EXPIRED - 1)) do
  if redis.call('EXISTS', prefix .. NAMES[2] .. id) > 0 then sends = sends + 1 else held = held + 1 end
end
if redis.call('EXISTS', schedule, inflight) == 0 then redis.call('DEL', faults, leases) end
return {#waiting, stay, handed, theirs, ended, locked, held, sends, gone}
