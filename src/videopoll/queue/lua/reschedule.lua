-- Puts polled jobs back on the schedule, each only if its lease is still held.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   one a job: lock
-- ARGV[1]     seconds that a record lives
-- ARGV[2..]   four a job: id, token, due ms, faults to remember or ''
-- returns     1 or 0 (lease lost) a job

local schedule, inflight, leases, faults = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local record_s = ARGV[1]
local count = (#ARGV - 1) / 4

local ids, locks = {}, {}
for n = 1, count do
  ids[n] = ARGV[4 * n - 2]
  locks[n] = KEYS[6 + n]
end
local holders = redis.call('HMGET', leases, unpack(ids))
local locked = redis.call('MGET', unpack(locks))

local answers, later, remember, forget, held, ours = {}, {}, {}, {}, {}, {}
for n = 1, count do
  local id, token, due, state = unpack(ARGV, 4 * n - 2, 4 * n + 1)
  if holders[n] == token then
    answers[n] = 1
    held[#held + 1] = id
    later[#later + 1] = due
    later[#later + 1] = id
    if state == '' then
      forget[#forget + 1] = id
    else
      remember[#remember + 1] = id
      remember[#remember + 1] = state
    end
    if locked[n] == 'vp:' .. token then ours[#ours + 1] = locks[n] end
  else
    answers[n] = 0
  end
end

if #held > 0 then
  if #remember > 0 then
    redis.call('HSET', faults, unpack(remember))
    -- What is remembered of jobs that workers of another kind have ended since must not stay for ever.
    redis.call('EXPIRE', faults, record_s)
  end
  redis.call('ZADD', schedule, unpack(later))
  -- Here as everywhere the token goes first: an entry in inflight finds its way back, a token without one would stay.
  redis.call('HDEL', leases, unpack(held))
  redis.call('ZREM', inflight, unpack(held))
  if #ours > 0 then redis.call('DEL', unpack(ours)) end
  if #forget > 0 then redis.call('HDEL', faults, unpack(forget)) end
end
return answers
