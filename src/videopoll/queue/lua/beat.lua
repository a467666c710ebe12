-- Tells that a worker is alive and how busy it is, or that it leaves; forgets those that are long gone.
--
-- KEYS[1..2]  workers, loads
-- ARGV        worker id, its load as JSON or '' (it leaves), seconds that a silent worker is listed
-- returns     1

local workers, loads = KEYS[1], KEYS[2]
local id, load, keep_s = ARGV[1], ARGV[2], tonumber(ARGV[3])
local BATCH = 100 -- workers that are forgotten in one call
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local gone = redis.call('ZRANGEBYSCORE', workers, '-inf', now - keep_s * 1000, 'LIMIT', 0, BATCH)
if load == '' then
  gone[#gone + 1] = id
else
  redis.call('ZADD', workers, now, id)
  redis.call('HSET', loads, id, load)
end
if #gone > 0 then
  redis.call('HDEL', loads, unpack(gone))
  redis.call('ZREM', workers, unpack(gone))
end
redis.call('EXPIRE', workers, keep_s)
redis.call('EXPIRE', loads, keep_s)
return 1
