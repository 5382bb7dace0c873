-- Reserve the ticket of a unit's next message, in place of the one that the caller has seen. Refused when another
-- message was announced since, while the unit is claimed, and when the work is done or not due. A claim whose lease has
-- expired is taken back by survey.lua alone, which remembers it if it expired during work that can end its process.
-- KEYS[1] record  hash
-- KEYS[2] units   hash     unit name -> JSON, see prelude.lua
-- KEYS[3] clips   hash     segment index -> msgpack
-- KEYS[4] queue   hash     'stamp': messages announced, 'claimed': highest stamp claimed; of high priority 'stamp:high'
--                          and 'claimed:high'
-- KEYS[5] shared  list     the messages that wait in the queue for any worker
-- KEYS[6] high    list     the same with high priority
-- KEYS[7] spec    hash     'job' and one field per segment, msgpack
-- ARGV[1] unit name; 'segment' is enough in a parallel job, too, ARGV[2] segment index (-1 for the film),
-- ARGV[3] ticket of the message it replaces, 0 for none,
-- ARGV[4] 1 when the publisher's worker has a sticky queue, which is used while the shared one is empty
-- Returns {ticket, 1 for the sticky queue else 0, the job's title, its number of segments, 'high' or ''}, or nothing.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
local name, index = ARGV[1], tonumber(ARGV[2])
name = string.find(name, '^segment') and segment_unit(KEYS[1], index) or name
if not is_published(KEYS[1]) then
  return {}
end
local unit = read_unit(KEYS[2], name)
if unit then
  if is_newer(unit.format) or unit.ticket ~= tonumber(ARGV[3]) or is_claimed(unit) or is_blocked(KEYS[2], unit) then
    return {}
  end
else
  local extent = read_extent(KEYS[1])
  local is_next = false
  for _, free in ipairs(string.find(name, '^segment') and startable_segments(KEYS[1], KEYS[2], KEYS[7], extent) or {}) do
    is_next = is_next or free == index
  end
  if is_next then
    open_part(KEYS[1], extent, index)
  elseif name ~= 'film' or not is_film_due(extent, redis.call('HLEN', KEYS[3])) then
    return {}
  end
end
return announce(KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], name, unit or new_unit(index), ARGV[4] == '1')
