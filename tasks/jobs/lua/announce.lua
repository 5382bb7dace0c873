-- Reserve the ticket of a unit's next message, in place of the one that the caller has seen. Refused when another
-- message was announced since, while the unit is claimed, and when the work is done or not due. A claim whose lease has
-- expired is taken back by survey.lua alone, which counts it when it ended inside the engine.
-- KEYS[1] record  hash
-- KEYS[2] units   hash     unit name -> JSON, see prelude.lua
-- KEYS[3] clips   hash     segment index -> msgpack
-- KEYS[4] queue   hash     'stamp': messages announced, 'claimed': highest stamp claimed
-- KEYS[5] shared  list     the messages that wait in the queue for any worker
-- ARGV[1] unit name, ARGV[2] segment index (-1 for the film), ARGV[3] ticket of the message it replaces, 0 for none,
-- ARGV[4] 1 when the publisher's worker has a queue of its own, which is the place while nobody waits in the shared one
-- Returns {ticket, 1 for that place else 0, the job's title, its segments}, or nothing.
local name, index = ARGV[1], tonumber(ARGV[2])
if not is_running(KEYS[1]) or redis.call('HEXISTS', KEYS[1], 'admitted') == 0 then
  return {}
end
local unit = read_unit(KEYS[2], name)
local cursor, segments, title = unpack(redis.call('HMGET', KEYS[1], 'cursor', 'segments', 'title'))
if unit then
  if unit.ticket ~= tonumber(ARGV[3]) or is_claimed(unit) or is_blocked(KEYS[2], unit) then
    return {}
  end
elseif name == 'segment' then
  if index ~= tonumber(cursor) or index >= tonumber(segments) then
    return {}
  end
elseif name ~= 'film' or redis.call('HLEN', KEYS[3]) ~= tonumber(segments) then
  return {}
end
unit = unit or new_unit(index)
unit.ticket = redis.call('HINCRBY', KEYS[1], 'ticket', 1)
unit.aside = ARGV[4] == '1' and redis.call('LLEN', KEYS[5]) == 0
unit.stamp = unit.aside and 0 or redis.call('HINCRBY', KEYS[4], 'stamp', 1)
unit.announced = now()
write_unit(KEYS[2], name, unit)
return { unit.ticket, unit.aside and 1 or 0, title, tonumber(segments) }
