-- Renews leases, the locks that tell other kinds of workers about them, and the records of what is polled.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..]   two a job: lock, record
-- ARGV[1..3]  lease ms, lock seconds, record seconds
-- ARGV[4..]   three a job: id, token, '1' if it is being polled (and so has a lock)
-- returns     1 or 0 (lease lost) a job

local inflight, leases = KEYS[3], KEYS[4]
local lease_ms, lock_s, record_s = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local deadline = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + lease_ms)
local count = (#ARGV - 3) / 3

local ids, locks = {}, {}
for n = 1, count do
  ids[n] = ARGV[3 * n + 1]
  locks[n] = KEYS[5 + 2 * n]
end
local holders = redis.call('HMGET', leases, unpack(ids))
local locked = redis.call('MGET', unpack(locks))

local answers, ends = {}, {}
for n = 1, count do
  local id, token, polling = unpack(ARGV, 3 * n + 1, 3 * n + 3)
  if holders[n] == token then
    answers[n] = 1
    ends[#ends + 1] = deadline
    ends[#ends + 1] = id
    -- A lock of another worker stays: a lost lock is no lost lease.
    if polling == '1' and (not locked[n] or string.sub(locked[n], 1, 3) == 'vp:') then
      redis.call('SET', locks[n], 'vp:' .. token, 'EX', lock_s)
    end
    if polling == '1' then
      -- As in claim.lua: a record's TTL measures how long nobody has kept it.
      local left_ms = redis.call('PTTL', KEYS[6 + 2 * n])
      if left_ms >= 0 and left_ms < record_s * 500 then redis.call('EXPIRE', KEYS[6 + 2 * n], record_s) end
    end
  else
    answers[n] = 0
  end
end
if #ends > 0 then redis.call('ZADD', inflight, 'XX', unpack(ends)) end
return answers
