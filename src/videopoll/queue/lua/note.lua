-- Adds entries to the history. Run twice, it writes them twice: whoever reads knows a repeated one by its number.
--
-- KEYS[1]     history
-- ARGV[1..2]  entries that the stream keeps, about; seconds that it outlives its last one
-- ARGV[3..]   seven an entry: job, step, worker, details as JSON or '', text or '', its age in ms, its number
-- returns     1

local history, most, keep_s = KEYS[1], ARGV[1], ARGV[2]
for n = 3, #ARGV, 7 do
  local job, step, by, details, text, ago, number = unpack(ARGV, n, n + 6)
  -- Its age instead of its time: the stream's ids follow Redis's clock, so that no worker's clock matters.
  local fields = {'job', job, 'step', step, 'by', by, 'ago', ago, 'n', number}
  if details ~= '' then
    fields[11], fields[12] = 'details', details
  end
  if text ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'text', text
  end
  redis.call('XADD', history, 'MAXLEN', '~', most, '*', unpack(fields))
end
redis.call('EXPIRE', history, keep_s)
return 1
