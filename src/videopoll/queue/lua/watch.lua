-- Ends the sending of messages that their channels have accepted: writes video:completed, keeps each
-- delivery for as long as a receipt may open it again, and notes under which names receipts find its
-- job. Where a receipt was here first, the delivery goes back to the outbox instead: whoever claims it
-- judges the receipt. Each only if its lease is still held. Run twice, it gives the same answer.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..8]  watched, early
-- KEYS[9..]   eight a job: record, outbox, lock, attempts, completed, watch, and the two names that receipts have for it
-- ARGV[1]     seconds that completed lives
-- ARGV[2..]   seven a job: id, token, completed JSON, outbox JSON, seconds that it is watched, seconds that
--             an outbox lives, under which name early receipts of this message are kept
-- returns     1 or 0 (lease lost) a job

local schedule, inflight, leases, faults, deliveries = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local watched, early = KEYS[7], KEYS[8]
local completed_s = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local answers, longest_s = {}, 0
local count = (#ARGV - 1) / 7
for n = 1, count do
  local id, token, ended, entry, watch_s, keep_s, name = unpack(ARGV, 7 * n - 5, 7 * n + 1)
  local record, outbox, lock, attempts, completed, watch, by_id, by_reference = unpack(KEYS, 1 + 8 * n, 8 + 8 * n)
  local holder = redis.call('HGET', leases, id)
  if holder == token then
    local came = redis.call('HGET', early, name)
    -- That it was sent is known here, too; each of the other kinds decides something.
    if came and string.sub(came, 1, 5) ~= 'sent:' then
      redis.call('SET', outbox, entry, 'EX', keep_s)
      redis.call('ZADD', deliveries, string.format('%.0f', now), id)
    else
      -- First what a receipt needs, then what the user's side reads; the outbox goes last but for the lease.
      redis.call('SET', watch, entry, 'EX', watch_s)
      redis.call('SET', by_id, id, 'EX', watch_s)
      redis.call('SET', by_reference, id, 'EX', watch_s)
      redis.call('ZADD', watched, string.format('%.0f', now + watch_s * 1000), id)
      longest_s = math.max(longest_s, tonumber(watch_s))
      redis.call('SET', completed, ended, 'EX', completed_s)
      local locked = redis.call('MGET', lock)[1]
      if not locked or string.sub(locked, 1, 3) == 'vp:' then redis.call('DEL', lock) end
      redis.call('DEL', record, attempts, outbox)
      redis.call('ZREM', deliveries, id)
    end
    redis.call('HDEL', faults, id)
    redis.call('ZREM', schedule, id)
    redis.call('HDEL', leases, id)
    redis.call('ZREM', inflight, id)
    answers[n] = 1
  elseif not holder and (redis.call('MGET', watch)[1] == entry or redis.call('MGET', outbox)[1] == entry) then
    -- This very call has been carried out: its reply was lost.
    answers[n] = 1
  else
    answers[n] = 0
  end
end

if longest_s > 0 then
  -- As many as have come in, and some more: it never holds many that are over.
  local over = redis.call('ZRANGEBYSCORE', watched, '-inf', string.format('%.0f', now), 'LIMIT', 0, count + 10)
  if #over > 0 then redis.call('ZREM', watched, unpack(over)) end
  if redis.call('TTL', watched) < longest_s then redis.call('EXPIRE', watched, longest_s) end
end
return answers
