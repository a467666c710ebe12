-- Notes how many partitions the queue has, and tells which of some jobs are known here, where they were
-- at home when it had fewer. From then on `enqueue` takes in no id here for a producer that knows of fewer.
-- So the two together, in this order, keep an id that moves from becoming two jobs.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7]     layout
-- KEYS[8..]   five a job: record, outbox, lock, attempts, completed
-- ARGV[1]     how many partitions the caller knows of, 0 to ask only
-- ARGV[2..]   ids
-- returns     now ms, the layout, then "known", "delivering", "finished" or "" a job

local schedule, inflight, deliveries, layout = KEYS[2], KEYS[3], KEYS[6], KEYS[7]
local MOST = 20 -- numbers that are remembered
local wanted = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))

local noted = redis.call('GET', layout) or ''
local known = tonumber(string.match(noted, '^%d+') or '1')
if wanted > known then
  local words = {wanted .. ':' .. now}
  for word in string.gmatch(noted, '%S+') do
    if #words < MOST then words[#words + 1] = word end
  end
  noted = table.concat(words, ' ')
  redis.call('SET', layout, noted)
end

local answers = {now, noted}
for n = 2, #ARGV do
  local at, id = 5 * n - 2, ARGV[n]
  local found = redis.call('MGET', KEYS[at], KEYS[at + 1], KEYS[at + 4])
  local here = ''
  if found[2] then
    here = 'delivering'
  elseif found[3] then
    here = 'finished'
  elseif found[1] or redis.call('ZSCORE', schedule, id) or redis.call('ZSCORE', inflight, id)
    or redis.call('ZSCORE', deliveries, id) then
    here = 'known'
  end
  answers[n + 1] = here
end
return answers
