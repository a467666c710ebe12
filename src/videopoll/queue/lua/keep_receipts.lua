-- Keeps receipts of messages that are not known yet: their send may be known in a moment, or never, as
-- they are somebody else's. So there are only so many, and only for so long; the newest stay.
-- Of several about one message the one stays that says most. Under our reference, which all messages of a job
-- bear, that of the newest message stays, unless an earlier one is known to have reached its user.
--
-- KEYS[1..2]  early, early times
-- KEYS[3..]   one each: what there is once its message is known
-- ARGV[1..2]  how many at most, for how many seconds
-- ARGV[3..]   four each: the hash of a name, the kind, the receipt's JSON, 1 if it is the second name of the one before
-- returns     1 kept, 0 nothing new, 2 its message is known by now (look again) each

local early, times = KEYS[1], KEYS[2]
local most, keep_s = tonumber(ARGV[1]), tonumber(ARGV[2])
local RANKS = {sent = 1, failed = 2, delivered = 3, read = 4}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function forget(names)
  if #names == 0 then return end
  redis.call('HDEL', early, unpack(names))
  redis.call('ZREM', times, unpack(names))
end

-- The channel's id of the message in a receipt as it is kept, or nil.
local function message_of(kept)
  local fine, fields = pcall(cjson.decode, string.match(kept, '^%a+:(.*)') or '')
  return fine and type(fields) == 'table' and fields.messageId or nil
end

local answers = {}
local count = (#ARGV - 2) / 4
for n = 1, count do
  local name, kind, receipt, second = unpack(ARGV, 4 * n - 1, 4 * n + 2)
  local known = redis.call('HGET', early, name)
  local rank = known and RANKS[string.match(known, '^%a+')] or 0
  answers[n] = 0
  if redis.call('EXISTS', KEYS[2 + n]) > 0 then
    -- The watch was written since somebody looked: what is kept from now on would be found by nobody.
    answers[n] = 2
  elseif second == '1' and answers[n - 1] == 0 then
    -- This was told before: by now its reference may stand for a later message.
    answers[n] = 0
  elseif RANKS[kind] > rank or (second == '1' and rank < RANKS.delivered and message_of(known) ~= cjson.decode(receipt).messageId) then
    redis.call('ZADD', times, string.format('%.0f', now), name)
    redis.call('HSET', early, name, kind .. ':' .. receipt)
    answers[n] = 1
  end
end

-- As many as have come in, and some more: never more than a few hundred in one call.
local batch = count + 100
forget(redis.call('ZRANGEBYSCORE', times, '-inf', string.format('%.0f', now - keep_s * 1000), 'LIMIT', 0, batch))
local excess = redis.call('ZCARD', times) - most
if excess > 0 then forget(redis.call('ZRANGE', times, 0, math.min(excess, batch) - 1)) end
redis.call('EXPIRE', times, keep_s)
redis.call('EXPIRE', early, keep_s)
return answers
