-- Claim the right to do one unit of work. A message about a segment claims one at a cursor, or the repair of a committed
-- one.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] spec     hash    'job' and one field per segment, msgpack
-- KEYS[4] handoffs hash    segment index -> msgpack
-- KEYS[5] queue    hash    'claimed': highest stamp claimed, 'claimed:high': of high priority
-- KEYS[6] takes    hash    see prelude_takes.lua
-- ARGV[1] 'segment', 'take', 'clip' or 'film', ARGV[2] segment index (-1 for the film), ARGV[3] ticket, ARGV[4] token,
-- ARGV[5] lease ms, ARGV[6] worker, ARGV[7] node, ARGV[8] ms after a failure in which another node is preferred, 0 for
-- none, ARGV[9] number of the take, ARGV[10] render class of this worker or '', ARGV[11] ms that a unit waits for a worker
-- of its class, 0 for none
-- Returns {'run', fence, epoch, ms now, unit name, job spec, spec of the segment before or '', segment's spec or '', next
--          segment's spec or '', handoff of index - 1 or '', handoff of index or '', another handoff or '', what was
--          asked for of a take or '', number of the take of each of these three handoffs, -1 for none}; the first is of
--          the take that the segment continues, before a new scene of the one that is shown; the second of the one that
--          a clip shows, or of the take itself if it is rendered again; the third of the take that a take leads into, or
--          of the next segment's that a clip is crossfaded with; last the unit's render class, '' for any:
--          of what was rendered before, else of what it continues
--         {'committed', 1 when the message of the next segment is missing else 0},
--         {'newer'} when a newer major version wrote what this claim reads; nothing is changed then,
--         {'refused', why},
--         {'failed here', unit name, ticket, node ...} with all nodes on which it failed lately,
--      or {'other class', unit name, ticket, the unit's render class} while it waits for a worker of that class.

-- The nodes on which the unit failed, or vanished, in the last `period` ms.
local function failed_lately(unit, period)
  local nodes = {}
  for _, list in ipairs({ unit.failures or {}, unit.vanished or {} }) do
    for _, failure in ipairs(list) do
      local passed = now() - failure.at
      if passed >= 0 and passed < period then
        nodes[#nodes + 1] = failure.node
      end
    end
  end
  return nodes
end

local function render_class_of(packed)
  local value = unpacked(packed)
  return value and type(value.render_class) == 'string' and value.render_class or ''
end

-- Whether a segment, not yet committed, does not continue the one before.
local function begins_scene(index, segment)
  local value = unpacked(segment)
  return index == 0 or (value ~= nil and value.transition ~= nil and value.transition ~= 'continue')
end

local state, format, cursor_text = unpack(redis.call('HMGET', KEYS[1], 'state', 'format', 'cursor'))
if not state then
  return { 'refused', 'there is no such job' }
end
if is_newer(format) then
  return { 'newer' }
end
local kind, index, ticket = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local cursor = tonumber(cursor_text)
local name = kind
if kind == 'clip' then
  name = 'clip:' .. ARGV[2]
elseif kind == 'take' then
  name = 'take:' .. ARGV[2] .. ':' .. ARGV[9]
elseif kind == 'segment' then
  name = is_committed(KEYS[1], index) and 'repair:' .. ARGV[2] or segment_unit(KEYS[1], index)
end
local unit = read_unit(KEYS[2], name)
local job, segment, following, before, own = redis.call('HGET', KEYS[3], 'job'), false, false, false, false
local spec_before = kind ~= 'film' and redis.call('HGET', KEYS[3], tostring(index - 1))
local other, request, from_take, own_take, other_take = false, false, 0, 0, -1
if kind ~= 'film' then
  segment, following = unpack(redis.call('HMGET', KEYS[3], ARGV[2], tostring(index + 1)))
  own = redis.call('HGET', KEYS[4], ARGV[2])
  local continues_take = own and not begins_scene(index, segment) -- a new scene may dissolve from what is shown
  from_take = continues_take and packed_number(own, 'from_take', 0) or shown_take(KEYS[6], index - 1)
end
if kind == 'clip' then
  own_take, other_take = clip_shows(KEYS[2], KEYS[4], KEYS[6], index)
  own = handoff_of(KEYS[4], KEYS[6], index, own_take)
  other = other_take ~= -1 and handoff_of(KEYS[4], KEYS[6], index + 1, other_take)
elseif kind == 'take' then
  own_take = tonumber(ARGV[9])
  request = redis.call('HGET', KEYS[6], index .. ':' .. own_take)
  own = handoff_of(KEYS[4], KEYS[6], index, own_take)
  local first, last = segments_of(KEYS[6], index, own_take)
  from_take = index > first and own_take or from_take
  other_take = own and packed_number(own, 'pinned_to', -1)
    or index == last and continued_take(KEYS[2], KEYS[4], index) or -1
  other = other_take ~= -1 and handoff_of(KEYS[4], KEYS[6], index, other_take)
end
before = kind ~= 'film' and handoff_of(KEYS[4], KEYS[6], index - 1, from_take)
if unit and is_newer(unit.format) then
  return { 'newer' }
end
for _, packed in ipairs({ job or '', spec_before or '', segment or '', following or '', before or '', own or '',
  other or '', request or '' }) do
  if packed ~= '' and is_newer_packed(packed) then
    return { 'newer' }
  end
end

note_delivery(KEYS[1], KEYS[2], KEYS[5], name, unit, ticket)
if not is_running(KEYS[1]) then
  return { 'refused', 'the job is ' .. state }
end
if kind == 'segment' then
  if index > cursor and not is_parallel(KEYS[1]) then
    return { 'refused', 'the cursor is at segment ' .. cursor }
  end
  if unit and unit.index ~= index then
    damaged('unit ' .. name .. ': index')
  end
  if not unit and index == cursor - 1 and ticket == tonumber(redis.call('HGET', KEYS[1], 'ticket')) then
    local missing = not is_parallel(KEYS[1]) and is_segment_due(read_extent(KEYS[1]))
      and tonumber(redis.call('HGET', KEYS[1], 'chained')) < cursor
    return { 'committed', missing and 1 or 0 }
  end
  if not unit then
    return { 'refused', index < cursor and 'the cursor is at segment ' .. cursor or 'it was not announced' }
  end
elseif not unit then
  return { 'refused', 'it is done' }
end
local why = refusal(KEYS[2], name, unit, ticket, ARGV[4])
if why then
  return { 'refused', why }
end
local nodes = failed_lately(unit, tonumber(ARGV[8]))
for _, node in ipairs(nodes) do
  if node == ARGV[7] and unit.token ~= ARGV[4] then
    return { 'failed here', name, unit.ticket, unpack(nodes) }
  end
end
local is_segment = string.find(name, '^segment') ~= nil
local is_new_scene = is_segment and begins_scene(index, segment)
local source = own or (not is_new_scene and before)
local class, own_class, patience = source and render_class_of(source) or '', ARGV[10], tonumber(ARGV[11])
if class ~= '' and own_class ~= '' and class ~= own_class and unit.token ~= ARGV[4] and patience > 0 then
  if not unit.class_wait then
    unit.class_wait = now()
    write_unit(KEYS[2], name, unit)
  end
  local passed = now() - unit.class_wait
  if passed >= 0 and passed < patience then
    return { 'other class', name, unit.ticket, class }
  end
end
unit.class_wait = nil
if is_segment then
  unit.from_take = is_new_scene and -1 or from_take
end
local fence = grant(KEYS[1], KEYS[2], name, unit, ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7])
if (kind == 'segment' or kind == 'take') and state == 'queued' then
  redis.call('HSET', KEYS[1], 'state', 'running', 'started_at', now())
end
if kind == 'segment' then
  tell(KEYS[1], 'loading', { segment = index, worker = ARGV[7] })
end
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch'))
return {
  'run', fence, epoch, now(), name, job or '', spec_before or '', segment or '', following or '', before or '', own or '',
  other or '', request or '', from_take, own_take, other_take, class,
}
