-- Leases a batch of jobs that are due: expired leases first, then deliveries, then polls
-- (from the list and the schedule together, the longest due first).
--
-- Every id of the list that is looked at for a poll leaves it: leased, scheduled, or dropped because
-- it is in flight already. An id that stayed would make every idle worker's BLMOVE return at once.
--
-- Beyond the slots for polls there is a look at a page of the schedule, from a rank that the
-- worker carries from claim to claim, at the oldest end of the list, and at expired leases: what
-- should have ended long ago is leased to be ended, whether or not a poll can be made. The
-- records of others that are seen are kept alive, as somebody has just looked after them.
--
-- Where producers name tenants, what is due and finds no place waits in a lane of its tenant, and the
-- lanes have the places in turn: see lanes.lua, whose text stands before this one.
--
-- Lua does not roll back. Reads come first, in forms that give a value instead of an error
-- (MGET reads nil for a wrong type); then the entry in inflight; removals come last. An abort
-- at any line leaves every id findable.
--
-- KEYS[1..6]  queue, schedule, inflight, leases, faults, deliveries
-- KEYS[7..8]  brakes, workers
-- ARGV        prefix, polls at most, sends at most, lease ms, token, lock seconds,
--             attempts seconds, initial delay ms, interval ms,
--             timeout ms where workers of another kind share the Redis, otherwise '',
--             endings at most (0 for no look), the rank to look from, ms from its start after
--             which a job ends without a poll, record seconds, '1' to take ids from the list,
--             '1' if expired leases may be taken over,
--             now ms as the worker expects it or '', by how much it may differ,
--             then ids that the worker still has in its hands
-- returns     now ms, next poll ms, next send ms, next expiry ms (each -1 for none), list length,
--             then one array a job: id, source, due ms (the lease's end, if that has expired),
--             attempts before, age of the last attempt ms (-1 for unknown), faults, record, outbox,
--             completed, wrong key or '', 1 if it is to be ended;
--             then the rank to look from next time, 0 if the look has come round,
--             accounts that are held back, each with until when, ms; how many workers live

local queue, schedule, inflight, leases, faults, deliveries = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, polls, sends = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local lease_ms, token, lock_s = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local attempts_s, initial_delay_ms, interval_ms = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local shared_timeout_ms = tonumber(ARGV[10])
local endings, look_from = tonumber(ARGV[11]), tonumber(ARGV[12])
local over_ms, record_s, take_new = tonumber(ARGV[13]), tonumber(ARGV[14]), ARGV[15] == '1'
local take_over, asked_ms, late_ms = ARGV[16] == '1', tonumber(ARGV[17]), tonumber(ARGV[18])
local NAMES = {':job:', ':poll:outbox:', ':lock:', ':attempts:', ':completed:'}
local STARTS = {}
for index, name in ipairs(NAMES) do STARTS[index] = prefix .. name end
local PAGE, MOST_EXPIRED = 200, 2000 -- expired leases that are looked at together, and in all
local LOOK = 250 -- jobs of the schedule, of the list and of expired leases that one look goes through
local FUTURE_MS = 60000 -- how far ahead of ours a producer's clock may be
local AGAIN_MS = 5000 -- when a job is looked at again that could not be ended yet
local MOST_DUE, NEWEST = 500, 100 -- what is due that goes to the lanes at once, from its old end and its new one

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A claim that waited in the socket of a server that stood still, or that meets with a clock that has
-- stepped, finds the leases of workers that live expired: it takes nothing over.
if asked_ms and math.abs(now - asked_ms) > late_ms then take_over = false end
local in_hand = {}
for n = 19, #ARGV do in_hand[ARGV[n]] = true end

-- Scores and times that others wrote may be infinite, or have fractions. Redis gives numbers of a
-- reply as integers, and takes them as arguments without rounding: up to 2^53 they are exact.
local function whole(number)
  if number ~= number then return 0 end
  return math.floor(math.max(-1, math.min(number, 9007199254740991)) + 0.5)
end

-- Candidates, each once: {id, source, due, the lane it waits in}
local jobs, index = {}, {}
local function candidate(id, source, due, lane)
  local known = index[id]
  if known then
    -- What stands in a lane may be of an earlier life of this id.
    if known.in_lane then known.also = known.also or {source, due} end
    return
  end
  local job = {id = id, source = source, due = math.max(0, due), lane = lane, in_lane = lane ~= nil}
  jobs[#jobs + 1] = job
  index[id] = job
end

-- Expired leases of one kind must not hide those of the other, for which there is room.
local poll_room, send_room, looked_at = polls, sends, 0
local to_look_at = {} -- {id, source, due}
while take_over and (poll_room > 0 or send_room > 0 or endings > #to_look_at) and looked_at < MOST_EXPIRED do
  local found = redis.call('ZRANGEBYSCORE', inflight, '-inf', now, 'WITHSCORES', 'LIMIT', looked_at, PAGE)
  if #found == 0 then break end
  local outboxes = {}
  for n = 1, #found, 2 do outboxes[#outboxes + 1] = STARTS[2] .. found[n] end
  local entries = redis.call('MGET', unpack(outboxes))
  for n, entry in ipairs(entries) do
    local id, ended = found[2 * n - 1], tonumber(found[2 * n])
    if in_hand[id] then
      -- Its holder is the one that asks.
    elseif entry and send_room > 0 then
      send_room = send_room - 1
      candidate(id, 'expired', ended)
    elseif not entry and poll_room > 0 then
      poll_room = poll_room - 1
      candidate(id, 'expired', ended)
    elseif not entry and endings > 0 and #to_look_at < LOOK then
      to_look_at[#to_look_at + 1] = {id, 'expired', ended}
    end
  end
  looked_at = looked_at + #entries
  if #entries < PAGE then break end
end
local fair = redis.call('EXISTS', prefix .. ':poll:tenants') == 1
local sides = fair and {
  schedule = lanes.read(prefix .. ':poll:lanes', prefix .. ':poll:lane:', polls, now),
  deliveries = lanes.read(prefix .. ':poll:send-lanes', prefix .. ':poll:send-lane:', sends, now),
}
local function side_of(job) return sides[job.source == 'deliveries' and 'deliveries' or 'schedule'] end

-- Takes what is due of the schedule or the deliveries as candidates: as much as there is room for, or, where tenants
-- are named, what is to go to their lanes as well. Behind a flood there may be somebody who has just become due.
local function take_due(key, source, room)
  for _, waits in ipairs(fair and sides[source].found or {}) do candidate(waits[1], source, waits[2], waits[3]) end
  local most = fair and MOST_DUE or room
  local ready = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
  for n = 1, #ready, 2 do candidate(ready[n], source, tonumber(ready[n + 1])) end
  if fair and #ready == 2 * most then
    local newest = redis.call('ZREVRANGEBYSCORE', key, now, '-inf', 'WITHSCORES', 'LIMIT', 0, NEWEST)
    for n = 1, #newest, 2 do candidate(newest[n], source, tonumber(newest[n + 1])) end
  end
end
local from_list, from_new = 0, 0
if sends > 0 then take_due(deliveries, 'deliveries', sends) end
if polls > 0 then
  take_due(schedule, 'schedule', polls)
  local waiting = take_new and redis.call('LRANGE', queue, -(fair and MOST_DUE or polls), -1) or {}
  from_list = #waiting
  for n = from_list, 1, -1 do
    candidate(waiting[n], 'list', now)
  end
  if fair and from_list == MOST_DUE then
    local newest = redis.call('LRANGE', queue, 0, NEWEST - 1)
    from_new = #newest
    for _, id in ipairs(newest) do candidate(id, 'list', now) end
  end
end

-- Reads when a record says that its job began; not a number if it does not say.
local function start_of(record)
  local fine, fields = pcall(cjson.decode, record)
  local start = fine and type(fields) == 'table' and fields['startTime']
  return type(start) == 'number' and start or 0 / 0
end

-- Whoever keeps a job keeps its record: its TTL measures how long nobody has. A producer elsewhere
-- may give it the usual 600 s, whatever this worker's is.
local young_ms = math.min(record_s, 600) * 500
local function keep(key)
  local left_ms = redis.call('PTTL', key)
  if left_ms >= 0 and left_ms < record_s * 500 then redis.call('EXPIRE', key, record_s) end
end

local next_look, looked_list, over = 0, false, 0
if endings > 0 then
  local waiting = take_new and redis.call('LRANGE', queue, -(from_list + LOOK), -(from_list + 1)) or {}
  for n = #waiting, 1, -1 do to_look_at[#to_look_at + 1] = {waiting[n], 'list', now} end
  -- By rank: what an offset would have to skip costs nothing.
  local page = redis.call('ZRANGE', schedule, look_from, look_from + LOOK - 1, 'WITHSCORES')
  local round = #page < 2 * LOOK
  for n = 1, #page, 2 do
    local due = tonumber(page[n + 1])
    if due > now then
      round = true
      break
    end
    to_look_at[#to_look_at + 1] = {page[n], 'schedule', due}
  end
  local names, records, old = {}, {}, {}
  for n, seen in ipairs(to_look_at) do names[n] = STARTS[1] .. seen[1] end
  if #names > 0 then records = redis.call('MGET', unpack(names)) end
  next_look = look_from
  for n, seen in ipairs(to_look_at) do
    local id, source, due = unpack(seen)
    local start = records[n] and start_of(records[n]) or 0 / 0
    local stays = source == 'schedule'
    if over == endings then
      round = false
      break
    elseif start + over_ms <= now then
      over = over + 1
      if not index[id] then
        candidate(id, source, due)
        index[id].looked = true
        looked_list = looked_list or source == 'list'
        stays = false
      end
      index[id].over = true
    elseif records[n] and not (now - start <= young_ms) then
      old[#old + 1] = names[n]
    end
    if stays then next_look = next_look + 1 end
  end
  if round then next_look = 0 end
  for _, key in ipairs(old) do keep(key) end
end
local listed = from_list > 0 or looked_list

-- Finds out in whose lane a job is to wait, and until when at most: whoever waits there is looked at again when it is
-- to be ended, and often enough for its record to be kept.
local function line_up(job)
  local fine, fields = pcall(cjson.decode, job.outbox or job.record or '')
  if fine and job.outbox then fields = type(fields) == 'table' and fields['record'] end
  if not fine or type(fields) ~= 'table' then fields = {} end
  local start = fields['startTime']
  job.lane, job.back = job.lane or lanes.tenant_of(fields), now + young_ms / 2
  job.old = not (type(start) == 'number' and now - start <= young_ms)
  if job.outbox or type(start) ~= 'number' then return end
  local ends = start + over_ms
  if ends > now then
    job.back = math.min(job.back, ends)
  else
    job.back = now + AGAIN_MS
    if job.record and not job.over and over < endings then job.over, over = true, over + 1 end
  end
end

local unschedule, undeliver, reschedule, endless, park = {}, {}, {}, {}, {schedule = {}, deliveries = {}}
local leased, answer = {}, {}
local polled, sent = 0, 0

if #jobs > 0 then
  -- A fresh lease covers its job, wherever else the id still stands.
  local ids = {}
  for n, job in ipairs(jobs) do ids[n] = job.id end
  local lease_ends, due_again, send_again = {}, {}, {}
  for first = 1, #ids, MANY do
    local last = math.min(first + MANY - 1, #ids)
    for _, score in ipairs(redis.call('ZMSCORE', inflight, unpack(ids, first, last))) do
      lease_ends[#lease_ends + 1] = score
    end
  end
  if listed or fair then
    for first = 1, #ids, MANY do
      local last = math.min(first + MANY - 1, #ids)
      for _, score in ipairs(redis.call('ZMSCORE', schedule, unpack(ids, first, last))) do
        due_again[#due_again + 1] = score
      end
      for _, score in ipairs(redis.call('ZMSCORE', deliveries, unpack(ids, first, last))) do
        send_again[#send_again + 1] = score
      end
    end
  end

  local keys, values = {}, {}
  for n, job in ipairs(jobs) do
    for index = 1, 5 do keys[5 * n - 5 + index] = STARTS[index] .. job.id end
  end
  for first = 1, #keys, MANY do
    for _, value in ipairs(redis.call('MGET', unpack(keys, first, math.min(first + MANY - 1, #keys)))) do
      values[#values + 1] = value
    end
  end

  local ready = {}
  for n, job in ipairs(jobs) do
    local at = 5 * (n - 1)
    job.record, job.outbox, job.lock = values[at + 1], values[at + 2], values[at + 3]
    job.attempts, job.completed, job.at = values[at + 4], values[at + 5], at
    local scheduled = due_again[n]
    if job.in_lane and not lanes.is_parked(job.source == 'schedule' and scheduled or job.source ~= 'schedule' and send_again[n]) then
      lanes.take(side_of(job), job)
      job.lane, job.in_lane = nil, false
      job.source, job.due = unpack(job.also or {'nowhere'})
    end
    if job.source == 'nowhere' then
      -- It has left its lane, and stands wherever it is now.
    elseif job.source ~= 'expired' and lease_ends[n] then
      if job.source == 'schedule' then unschedule[#unschedule + 1] = job.id end
      if job.source == 'deliveries' then undeliver[#undeliver + 1] = job.id end
      if job.in_lane then lanes.take(side_of(job), job) end
    elseif job.source == 'list' and send_again[n] then
      job.covered = true
    else
      job.scheduled = scheduled
      if job.source == 'schedule' or job.source == 'list' then
        local foreign = job.lock and string.sub(job.lock, 1, 3) ~= 'vp:'
        if job.source == 'list' and job.record and not job.outbox then
          -- When would this job be due by its own history? Foreign workers push ids that we
          -- have scheduled already, and new ids come here before their first delay is over.
          if job.attempts then
            local left_ms = redis.call('PTTL', keys[at + 4])
            job.age = left_ms >= 0 and math.max(0, attempts_s * 1000 - left_ms) or -1
            job.due = job.age >= 0 and now - job.age + interval_ms or now
          else
            local start = start_of(job.record)
            if start <= now + FUTURE_MS then
              job.due = math.max(0, math.min(start, now) + initial_delay_ms)
            elseif start > now and start < math.huge and not job.scheduled then
              -- Either a producer's clock is wrong, or ours has stepped back since the job came in:
              -- then its record lives on for longer than any record is given.
              job.strange = redis.call('PTTL', keys[at + 1]) <= 2 * young_ms
            end
          end
          if job.scheduled then job.due = math.min(job.due, tonumber(job.scheduled)) end
        end
        if shared_timeout_ms and job.source == 'schedule' and job.record and job.attempts
          and not job.outbox and not foreign then
          -- We have noted the counter at our last poll. If it has moved on, a worker of another kind
          -- has the job in its memory: stay a step behind it, or both use up the shared attempts.
          local noted = string.match(redis.call('HGET', faults, job.id) or '', '^%d+:%d*:(%d+)')
          local left_ms = redis.call('PTTL', keys[at + 4])
          if left_ms >= 0 then job.age = math.max(0, attempts_s * 1000 - left_ms) end
          if noted and job.age and (tonumber(job.attempts) or 0) > tonumber(noted) then
            local start = start_of(job.record)
            if start ~= start then start = 0 end
            job.due = math.min(now - job.age + 1.5 * interval_ms, math.max(now, start + shared_timeout_ms))
          end
        end
        if foreign and job.record and not job.outbox then
          -- Somebody of another kind is polling it: look again when that lock ends.
          local left_ms = redis.call('PTTL', keys[at + 3])
          if left_ms < 0 then endless[#endless + 1] = keys[at + 3] end
          job.due = now + (left_ms >= 0 and left_ms or lock_s * 1000) + 1
          reschedule[#reschedule + 1] = job
        elseif job.due > now then
          reschedule[#reschedule + 1] = job
        else
          ready[#ready + 1] = job
        end
      else
        local foreign = job.lock and string.sub(job.lock, 1, 3) ~= 'vp:'
        if job.source == 'expired' and foreign and job.record and not job.outbox then
          local left_ms = redis.call('PTTL', keys[at + 3])
          if left_ms < 0 then endless[#endless + 1] = keys[at + 3] end
          job.due = now + (left_ms >= 0 and left_ms or lock_s * 1000) + 1
          job.let_go = true
          reschedule[#reschedule + 1] = job
        else
          ready[#ready + 1] = job
        end
      end
    end
  end

  -- The longest due first, wherever it waited; a dead worker's jobs before all. Without ids of
  -- the list they are in this order already.
  if listed or fair then
    table.sort(ready, function(a, b)
      if (a.source == 'expired') ~= (b.source == 'expired') then return a.source == 'expired' end
      if a.due ~= b.due then return a.due < b.due end
      return a.id < b.id
    end)
  end
  if fair then
    local first, of = {}, {schedule = {}, deliveries = {}}
    for _, job in ipairs(ready) do
      if job.source ~= 'expired' then line_up(job) end
      local list = job.source == 'expired' and first or of[job.source == 'deliveries' and 'deliveries' or 'schedule']
      list[#list + 1] = job
    end
    for _, name in ipairs({'deliveries', 'schedule'}) do
      for _, job in ipairs(lanes.in_turn(sides[name], of[name])) do first[#first + 1] = job end
    end
    ready = first
  end
  local empty = {}
  for _, job in ipairs(ready) do
    local is_send = job.outbox or job.source == 'deliveries'
    local room = false
    if is_send then
      room = sent < sends
      if room then sent = sent + 1 end
    else
      room = polled < polls
      if room then
        polled = polled + 1
      elseif job.record and (job.over or job.strange) then
        room, job.ending = true, true
      end
    end
    if room then
      job.is_send = is_send
      leased[#leased + 1] = job
      if not job.record and not job.outbox then empty[#empty + 1] = keys[job.at + 1] end
      if not job.attempts then empty[#empty + 1] = keys[job.at + 4] end
      if not job.lock then empty[#empty + 1] = keys[job.at + 3] end
    elseif job.in_lane then
      lanes.leave(side_of(job), job.due)
    elseif fair and job.source ~= 'expired' and not job.looked then
      local waiting = park[job.source == 'deliveries' and 'deliveries' or 'schedule']
      waiting[#waiting + 1] = job
    elseif job.source == 'list' and not job.looked then
      reschedule[#reschedule + 1] = job
    end
  end

  -- MGET reads nil where there is no key, and where there is one of another type.
  local odd = 0
  for first = 1, #empty, MANY do
    odd = odd + redis.call('EXISTS', unpack(empty, first, math.min(first + MANY - 1, #empty)))
  end
  if odd > 0 then
    for _, job in ipairs(leased) do
      for n, value in pairs({[1] = job.record or job.outbox or false, [3] = job.lock or false, [4] = job.attempts or false}) do
        if not value then
          local kind = redis.call('TYPE', keys[job.at + n])
          kind = type(kind) == 'table' and kind.ok or kind
          if kind ~= 'none' and kind ~= 'string' then job.wrong = NAMES[n] .. kind end
        end
      end
    end
  end

  -- From here on, writes. The lease first: it is what keeps a job findable.
  local ends, tokens = {}, {}
  local deadline = whole(now + lease_ms)
  local leased_ids = {}
  for n, job in ipairs(leased) do
    ends[2 * n - 1], ends[2 * n] = deadline, job.id
    tokens[2 * n - 1], tokens[2 * n] = job.id, token
    leased_ids[n] = job.id
  end
  variadic('ZADD', inflight, ends)
  variadic('HSET', leases, tokens)

  for _, job in ipairs(leased) do
    if job.strange and not job.wrong then job.wrong = 'start' end
  end

  local known_faults = {}
  for first = 1, #leased_ids, MANY do
    local last = math.min(first + MANY - 1, #leased_ids)
    for _, value in ipairs(redis.call('HMGET', faults, unpack(leased_ids, first, last))) do
      known_faults[#known_faults + 1] = value
    end
  end

  for n, job in ipairs(leased) do
    -- Not everything that Lua reads as a number is one: "nan", "0x10", "1e999".
    local digits = string.match(job.attempts or '0', '^%d+$')
    local before = digits and #digits < 10 and tonumber(digits)
    if not before then job.wrong = ':attempts:not a number' end
    local age = job.age or -1
    if not job.is_send and job.record and not job.wrong then
      if job.source ~= 'expired' and not job.ending then
        if before > 0 and not job.age then
          local left_ms = redis.call('PTTL', keys[job.at + 4])
          if left_ms >= 0 then age = math.max(0, attempts_s * 1000 - left_ms) end
        end
        redis.call('SET', keys[job.at + 4], before + 1, 'EX', attempts_s)
      end
      redis.call('SET', keys[job.at + 3], 'vp:' .. token, 'EX', lock_s)
      -- A record that names an early start further inside costs a look at its TTL, no more.
      local start = tonumber(string.match(job.record, '"startTime":%s*(%d+)'))
      if not start or now - start > young_ms then keep(keys[job.at + 1]) end
    end
    if job.source == 'schedule' or job.scheduled then unschedule[#unschedule + 1] = job.id end
    if job.source == 'deliveries' then undeliver[#undeliver + 1] = job.id end
    answer[n] = {
      job.id, job.source, whole(job.due), before or 0, age, known_faults[n] or '',
      job.record, job.outbox, job.completed, job.wrong or '', job.ending and 1 or 0,
    }
  end

  if fair then
    for _, some in ipairs({leased, reschedule}) do
      for _, job in ipairs(some) do
        if job.lane then lanes.take(side_of(job), job, some == leased and not job.ending) end
      end
    end
    for _, job in ipairs(park.schedule) do
      if job.record and job.old then keep(keys[job.at + 1]) end
    end
  end
  if #reschedule > 0 then
    local later, let_go = {}, {}
    for n, job in ipairs(reschedule) do
      later[2 * n - 1], later[2 * n] = whole(job.due), job.id
      if job.let_go then let_go[#let_go + 1] = job.id end
    end
    -- Nobody could ever take the lock of a worker of another kind that has lost its time to live.
    for _, lock in ipairs(endless) do redis.call('EXPIRE', lock, lock_s) end
    variadic('ZADD', schedule, later)
    if #let_go > 0 then
      variadic('HDEL', leases, let_go)
      variadic('ZREM', inflight, let_go)
    end
  end
  if fair then
    lanes.park(sides.schedule, schedule, park.schedule, record_s)
    lanes.park(sides.deliveries, deliveries, park.deliveries, record_s)
  end
  if #unschedule > 0 then variadic('ZREM', schedule, unschedule) end
  if #undeliver > 0 then variadic('ZREM', deliveries, undeliver) end
  if from_list > 0 then redis.call('LTRIM', queue, from_new, -(from_list + 1)) end
  if looked_list then
    -- From the old end, where they were found; what was left there stays.
    for _, some in ipairs({leased, reschedule}) do
      for _, job in ipairs(some) do
        if job.looked and job.source == 'list' then redis.call('LREM', queue, -1, job.id) end
      end
    end
  end
elseif fair then
  lanes.park(sides.schedule, schedule, {}, record_s)
  lanes.park(sides.deliveries, deliveries, {}, record_s)
end

local function first_of(key, side)
  local found = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  local first = found[2] and tonumber(found[2]) or math.huge
  if side and side.first_due then first = math.min(first, side.first_due) end
  return first < math.huge and whole(first) or -1
end

-- What all workers have to know of each other comes with each claim. By pcall: without it jobs are claimed all the same.
local function told(reply, otherwise)
  return type(reply) == 'table' and reply.err and otherwise or reply
end
local DAY_MS, ALIVE_MS, MOST_HELD = 86400000, 10000, 100 -- the longest pause; the oldest beat of who lives; accounts told
local held = redis.pcall('ZREVRANGEBYSCORE', KEYS[7], now + DAY_MS, '(' .. now, 'WITHSCORES', 'LIMIT', 0, MOST_HELD)
local alive = redis.pcall('ZCOUNT', KEYS[8], now - ALIVE_MS, now + ALIVE_MS)
return {
  whole(now), first_of(schedule, sides and sides.schedule), first_of(deliveries, sides and sides.deliveries),
  first_of(inflight), redis.call('LLEN', queue), answer, next_look, told(held, {}), told(alive, 0),
}
