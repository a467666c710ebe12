-- Brings a dead letter back to life, or dismisses it.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..8]  dead, letters
-- KEYS[9..13] record, outbox, lock, attempts, completed
-- ARGV        id, the letter as it was read, outbox JSON or '', seconds that it lives,
--             record JSON or '', seconds that it lives
-- returns     1, or 0 if the letter is another one by now, or a worker has the job in hand

local queue, schedule, inflight, deliveries, dead, letters = KEYS[1], KEYS[2], KEYS[3], KEYS[6], KEYS[7], KEYS[8]
local record, outbox, completed = KEYS[9], KEYS[10], KEYS[13]
local id, letter, entry, entry_s, fields, fields_s = unpack(ARGV)

if redis.call('HGET', letters, id) ~= letter then return 0 end
-- The id lives again, and may be being sent: what is noted about that send must not be overwritten.
if (entry ~= '' or fields ~= '') and redis.call('ZSCORE', inflight, id) then return 0 end
if entry ~= '' then
  local time = redis.call('TIME')
  redis.call('SET', outbox, entry, 'EX', entry_s)
  redis.call('ZADD', deliveries, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), id)
  redis.call('DEL', completed)
elseif fields ~= '' then
  redis.call('SET', record, fields, 'EX', fields_s)
  -- Redis's clock may have stepped back since the job began. Whoever redrives it has accepted it, and
  -- what stands in the schedule is no stranger's.
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local fine, read = pcall(cjson.decode, fields)
  local start = fine and type(read) == 'table' and read['startTime']
  if type(start) == 'number' and start > now then redis.call('ZADD', schedule, string.format('%.0f', now), id) end
  redis.call('LPUSH', queue, id)
  redis.call('DEL', completed)
end
redis.call('ZREM', dead, id)
redis.call('HDEL', letters, id)
return 1
