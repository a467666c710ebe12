-- Has all workers leave accounts of video APIs alone for a while: each learns of it with its next claim.
--
-- Pauses are only ever made longer, so it does not matter whose word comes last. What has ended goes,
-- and so does what none of us has written: a pause without end. With the last one the key goes.
--
-- KEYS[1]  brakes
-- ARGV     accounts at most, the longest pause in ms, then account and ms for each
-- returns  how many accounts are held back now

local brakes, most, longest = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREMRANGEBYSCORE', brakes, '(' .. (now + longest), '+inf')
for n = 3, #ARGV, 2 do
  redis.call('ZADD', brakes, 'GT', now + math.min(tonumber(ARGV[n + 1]), longest), ARGV[n])
end
redis.call('ZREMRANGEBYSCORE', brakes, '-inf', now)
redis.call('ZREMRANGEBYRANK', brakes, 0, -(most + 1))
local last = redis.call('ZRANGE', brakes, -1, -1, 'WITHSCORES')
if last[2] then redis.call('PEXPIRE', brakes, math.max(1, math.ceil(tonumber(last[2]) - now))) end
return redis.call('ZCARD', brakes)
