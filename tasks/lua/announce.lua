-- Reserve the ticket of a unit's next message, in place of the one that the caller has seen. Refused when another
-- message was announced since, while the unit is claimed, and when the work is done or not due. A claim whose lease has
-- expired is taken back by survey.lua alone, which counts it when it ended inside the engine.
-- KEYS[1] record  hash
-- KEYS[2] units   hash     unit name -> JSON, see prelude.lua
-- KEYS[3] clips   hash     segment index -> msgpack
-- KEYS[4] queue   hash     'stamp': messages announced, 'claimed': highest stamp claimed
-- ARGV[1] unit name, ARGV[2] segment index (-1 for the film), ARGV[3] ticket of the message it replaces, 0 for none
-- Returns the ticket, or 0.
local name, index = ARGV[1], tonumber(ARGV[2])
if not is_running(KEYS[1]) or redis.call('HEXISTS', KEYS[1], 'admitted') == 0 then
  return 0
end
local unit = read_unit(KEYS[2], name)
local cursor, segments = unpack(redis.call('HMGET', KEYS[1], 'cursor', 'segments'))
if unit then
  if unit.ticket ~= tonumber(ARGV[3]) or is_claimed(unit) or is_blocked(KEYS[2], unit) then
    return 0
  end
elseif name == 'segment' then
  if index ~= tonumber(cursor) or index >= tonumber(segments) then
    return 0
  end
elseif name ~= 'film' or redis.call('HLEN', KEYS[3]) ~= tonumber(segments) then
  return 0
end
unit = unit or new_unit(index)
unit.ticket = redis.call('HINCRBY', KEYS[1], 'ticket', 1)
unit.stamp = redis.call('HINCRBY', KEYS[4], 'stamp', 1)
unit.announced = now()
write_unit(KEYS[2], name, unit)
return unit.ticket
