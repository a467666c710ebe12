-- Carries out what a receipt means for a job that is watched, if that is as it was when it was judged:
-- opens its delivery again, or notes that its user has the message. Run twice, it does nothing the second time.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7]     watched
-- KEYS[8..11] record, outbox, completed, watch
-- ARGV        id, what is watched and completed as they were read ('' for none),
--             outbox JSON or '', seconds that it lives,
--             completed JSON or '', seconds that it lives
-- returns     1 done, 0 it is another one by now (look again), 2 the job lives again

local inflight, deliveries, watched = KEYS[3], KEYS[6], KEYS[7]
local record, outbox, completed, watch = unpack(KEYS, 8, 11)
local id, seen, seen_end, entry, keep_s, ended, ended_s = unpack(ARGV)

local found = redis.call('MGET', watch, completed)
if found[1] ~= seen or (found[2] or '') ~= seen_end then return 0 end
-- It was enqueued again, redriven, or taken over before its watch was written: what it becomes now is not ours to say.
if redis.call('EXISTS', record, outbox) > 0 or redis.call('ZSCORE', inflight, id) then return 2 end
if entry ~= '' then
  local time = redis.call('TIME')
  -- The id first: without an outbox it would be let go, and the watch goes last, so that the receipt can come again.
  redis.call('ZADD', deliveries, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), id)
  redis.call('SET', outbox, entry, 'EX', keep_s)
  redis.call('ZREM', watched, id)
  redis.call('DEL', watch)
else
  redis.call('SET', completed, ended, 'EX', ended_s)
  redis.call('ZREM', watched, id)
end
return 1
