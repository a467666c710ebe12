-- Makes the next poll of a scheduled job due at once; one that was due already keeps its turn.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- ARGV        id
-- returns     1, or 0 if the job is not in the schedule

local schedule, id = KEYS[2], ARGV[1]

if not redis.call('ZSCORE', schedule, id) then return 0 end
local time = redis.call('TIME')
redis.call('ZADD', schedule, 'XX', 'LT', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), id)
return 1
