-- Makes the next poll of a scheduled job due at once; one that was due already keeps its turn.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7]     the job's attempts
-- ARGV        id, '1' if the poll comes on top of those that are allowed
-- returns     1, or 0 if the job is not in the schedule

local schedule, attempts, id, on_top = KEYS[2], KEYS[7], ARGV[1], ARGV[2]

local due = redis.call('ZSCORE', schedule, id)
if not due then return 0 end
-- At a half millisecond stands what is due and waits for its tenant's turn (lanes.lua).
if tonumber(due) % 1 == 0.5 then return 1 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', schedule, 'XX', 'LT', string.format('%.0f', now), id)
if on_top == '1' and tonumber(due) > now then
  -- MGET reads nil from a key of another type.
  local made = redis.call('MGET', attempts)[1]
  if made and string.match(made, '^[1-9]%d?%d?%d?%d?%d?%d?%d?$') then redis.call('DECR', attempts) end
end
return 1
