-- Finds the jobs that receipts are about, and what is kept of them. Changes nothing.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- ARGV[1]     prefix
-- ARGV[2..]   two a receipt: the hash of the channel's id and of our reference, '' for none
-- returns     now ms, then a receipt: 1 if the channel's id is known, the job's id, what is watched, completed (nil for what is not there)

local prefix = ARGV[1]
local function job_of(hash)
  return hash ~= '' and redis.call('MGET', prefix .. ':poll:sent:' .. hash)[1]
end

local time = redis.call('TIME')
local answers = {string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))}
for n = 1, (#ARGV - 1) / 2 do
  local by_id = job_of(ARGV[2 * n])
  local id = by_id or job_of(ARGV[2 * n + 1])
  local found = {false, false}
  if id then found = redis.call('MGET', prefix .. ':poll:watch:' .. id, prefix .. ':completed:' .. id) end
  answers[n + 1] = {by_id and 1 or 0, id, found[1], found[2]}
end
return answers
