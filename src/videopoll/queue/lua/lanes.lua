-- Whose turn it is, where tenants are named: this text stands before that of claim.lua, which calls it.
--
-- What is due and finds no place waits in a lane of its tenant: a sorted set of ids by due time. An
-- index has the lanes in the order of their turns: each job that is taken puts its lane one turn back,
-- and a new lane comes in half a turn behind the first. (Start-time fair queueing, Goyal, Vin and Cheng,
-- 1996, with jobs of one size. A lane is forgotten when it is empty: coming in with the first, one that
-- empties again and again could always be first.) So a claim looks at no more lanes than it has places,
-- whatever they hold.
--
-- A lane is no place of its own. Its ids stay in the schedule (or among the deliveries), with the time
-- at which they are looked at again at the latest: half a millisecond past a whole one, by which it
-- is known. Whatever takes an id from there, or gives it another time, takes it out of its lane: what
-- else is found in a lane is passed over. And whatever becomes of the lanes, or if only workers of an earlier
-- version are left, every id is due again where all workers look.

local MANY = 5000 -- arguments a command: below the limit of Lua's unpack

-- Runs a variadic command over as many arguments as there are, in as few calls as unpack allows.
local function variadic(command, key, arguments)
  for first = 1, #arguments, MANY do
    redis.call(command, key, unpack(arguments, first, math.min(first + MANY - 1, #arguments)))
  end
end

local lanes = {}

-- Reads the tenant of a job; '' is the lane of those that have none, or none that is one.
function lanes.tenant_of(fields)
  local tenant = type(fields) == 'table' and fields['tenant']
  return type(tenant) == 'string' and #tenant <= 512 and tenant or ''
end

function lanes.is_parked(score)
  return score and tonumber(score) % 1 == 0.5
end

-- Reads what has waited for its turn: as much as there is room for, of as many lanes as there is room for.
function lanes.read(index, start, room, now)
  -- found: {id, due, lane}; heads: lanes that were looked at; turns: of each lane; held: how many ids it has at
  -- least; taken: how many had their turn; out: ids that leave it; first_due: of what stays
  local side = {index = index, start = start, room = room, found = {}, heads = {}, turns = {}, held = {}, taken = {}, out = {}}
  -- One more than there is room for: is there more?
  local heads = redis.call('ZRANGE', index, 0, math.max(room, 1), 'WITHSCORES')
  side.next_turn = heads[2] and tonumber(heads[2]) + 0.5 or 0
  local open = {}
  for n = 1, math.min(#heads, 2 * math.max(room, 1)), 2 do
    side.heads[heads[n]], side.turns[heads[n]] = true, tonumber(heads[n + 1])
    open[#open + 1] = {name = heads[n], at = 0}
  end
  if room > 0 and #heads > 2 * room then lanes.leave(side, now) end
  local need = room
  while #open > 0 do
    local each, still = math.max(0, math.ceil(need / #open)), {}
    for _, lane in ipairs(open) do
      local ids = redis.call('ZRANGE', start .. lane.name, lane.at, lane.at + each, 'WITHSCORES')
      local some = math.min(#ids / 2, each)
      for n = 1, some do side.found[#side.found + 1] = {ids[2 * n - 1], tonumber(ids[2 * n]), lane.name} end
      side.held[lane.name] = lane.at + #ids / 2
      lane.at, need = lane.at + some, need - some
      lane.due = #ids / 2 > each and tonumber(ids[#ids])
      if lane.due then still[#still + 1] = lane end
    end
    open = still
    if need <= 0 then break end
  end
  for _, lane in ipairs(open) do lanes.leave(side, lane.due) end
  return side
end

-- Notes that something of this time is left.
function lanes.leave(side, due)
  side.first_due = math.min(side.first_due or due, due)
end

-- Puts jobs in the order of their turns: those of one lane stay in their order. What cannot have a turn in this
-- claim stands at the end.
function lanes.in_turn(side, jobs)
  local new, asked = {}, {}
  for _, job in ipairs(jobs) do
    if not side.turns[job.lane] and not asked[job.lane] then
      asked[job.lane] = true
      new[#new + 1] = job.lane
    end
  end
  for first = 1, #new, MANY do
    local last = math.min(first + MANY - 1, #new)
    for n, turn in ipairs(redis.call('ZMSCORE', side.index, unpack(new, first, last))) do
      local name = new[first + n - 1]
      side.turns[name] = turn and tonumber(turn) or side.next_turn
      side.held[name] = turn and math.huge or 0
    end
  end
  local places, ordered, rest = {}, {}, {}
  for _, job in ipairs(jobs) do
    local place = places[job.lane] or 0
    places[job.lane] = place + 1
    job.turn = side.turns[job.lane] + place
    local list = place < side.room and ordered or rest
    list[#list + 1] = job
  end
  table.sort(ordered, function(a, b)
    if a.turn ~= b.turn then return a.turn < b.turn end
    if a.due ~= b.due then return a.due < b.due end
    return a.id < b.id
  end)
  for _, job in ipairs(rest) do ordered[#ordered + 1] = job end
  return ordered
end

-- Notes that a job leaves its lane, because it has had its turn or has none any more.
function lanes.take(side, job, had_turn)
  local name = job.lane
  if had_turn then side.taken[name] = (side.taken[name] or 0) + 1 end
  if job.in_lane then side.held[name] = side.held[name] - 1 elseif not lanes.is_parked(job.due) then return end
  side.out[name] = side.out[name] or {}
  table.insert(side.out[name], job.id)
end

-- Writes which jobs wait for their turn, each with the time at which it is looked at again at the latest,
-- and whose turn is next. The index first, by which every lane is found; then the lanes, as what stands in them only is
-- passed over.
function lanes.park(side, place, jobs, keep_s)
  local ids, later = {}, {}
  for n, job in ipairs(jobs) do
    local name = job.lane
    ids[name] = ids[name] or {}
    table.insert(ids[name], string.format('%.0f', job.due))
    table.insert(ids[name], job.id)
    side.held[name] = side.held[name] + 1
    lanes.leave(side, job.due)
    later[2 * n - 1], later[2 * n] = string.format('%.1f', math.floor(job.back) + 0.5), job.id
  end
  local turns, empty = {}, {}
  for name, held in pairs(side.held) do
    if held <= 0 and side.heads[name] then
      empty[#empty + 1] = name
    elseif held > 0 and (side.taken[name] or ids[name]) then
      turns[#turns + 1] = string.format('%.1f', side.turns[name] + (side.taken[name] or 0))
      turns[#turns + 1] = name
    end
  end
  if #turns > 0 then
    variadic('ZADD', side.index, turns)
    redis.call('EXPIRE', side.index, keep_s)
  end
  for name, some in pairs(ids) do
    local key = side.start .. name
    for first = 1, #some, MANY do
      redis.call('ZADD', key, 'NX', unpack(some, first, math.min(first + MANY - 1, #some)))
    end
    redis.call('EXPIRE', key, keep_s)
  end
  variadic('ZADD', place, later)
  for name, out in pairs(side.out) do variadic('ZREM', side.start .. name, out) end
  variadic('ZREM', side.index, empty)
end

