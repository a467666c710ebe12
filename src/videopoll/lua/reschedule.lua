-- Puts polled jobs back on the schedule, each only if its lease is still held.
-- A job that is given back goes to the list instead, which wakes a worker, and its
-- poll is not counted.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   two a job: lock, attempts
-- ARGV        six a job: id, token, due ms, faults to remember or '',
--             attempts to restore or '' (then the job is given back), seconds*1000 they still live
-- returns     1 or 0 (lease lost) a job

local queue, schedule, inflight, leases, faults = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local count = #ARGV / 6

local ids, locks = {}, {}
for n = 1, count do
  ids[n] = ARGV[6 * n - 5]
  locks[n] = KEYS[5 + 2 * n]
end
local holders = redis.call('HMGET', leases, unpack(ids))
local locked = redis.call('MGET', unpack(locks))

local answers, later, returned, remember, forget, held, ours = {}, {}, {}, {}, {}, {}, {}
for n = 1, count do
  local id, token, due, state, restore, left_ms = unpack(ARGV, 6 * n - 5, 6 * n)
  if holders[n] == token then
    answers[n] = 1
    held[#held + 1] = id
    if restore ~= '' then
      returned[#returned + 1] = id
      if tonumber(restore) < 1 then
        redis.call('DEL', KEYS[6 + 2 * n])
      else
        redis.call('SET', KEYS[6 + 2 * n], restore, 'PX', left_ms)
      end
    else
      later[#later + 1] = due
      later[#later + 1] = id
      if state == '' then
        forget[#forget + 1] = id
      else
        remember[#remember + 1] = id
        remember[#remember + 1] = state
      end
    end
    if locked[n] == 'vp:' .. token then ours[#ours + 1] = locks[n] end
  else
    answers[n] = 0
  end
end

if #held > 0 then
  if #remember > 0 then redis.call('HSET', faults, unpack(remember)) end
  if #later > 0 then redis.call('ZADD', schedule, unpack(later)) end
  if #returned > 0 then redis.call('RPUSH', queue, unpack(returned)) end
  -- Here as everywhere the token goes first: an entry in inflight finds its way back, a token without one would stay.
  redis.call('HDEL', leases, unpack(held))
  redis.call('ZREM', inflight, unpack(held))
  if #ours > 0 then redis.call('DEL', unpack(ours)) end
  if #forget > 0 then redis.call('HDEL', faults, unpack(forget)) end
end
return answers
