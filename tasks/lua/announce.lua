-- Reserve the ticket of a unit's next message. Refused while a holder's lease lives, and when the work is already done.
-- KEYS[1] record  hash
-- KEYS[2] units   hash     unit name -> JSON, see prelude.lua
-- KEYS[3] queue   hash     'stamp': messages announced, 'claimed': highest stamp claimed
-- ARGV[1] unit name, ARGV[2] segment index (-1 for the film)
-- Returns the ticket, or 0.
if not is_running(KEYS[1]) then
  return 0
end
local unit = read_unit(KEYS[2], ARGV[1])
if is_live(unit, now()) then
  return 0
end
local index = tonumber(ARGV[2])
local cursor, segments = unpack(redis.call('HMGET', KEYS[1], 'cursor', 'segments'))
if ARGV[1] == 'segment' and (index ~= tonumber(cursor) or index >= tonumber(segments)) then
  return 0
end
local ticket = redis.call('HINCRBY', KEYS[1], 'ticket', 1)
local stamp = redis.call('HINCRBY', KEYS[3], 'stamp', 1)
write_unit(KEYS[2], ARGV[1], {
  index = index, ticket = ticket, stamp = stamp, announced = now(), token = '', fence = 0, expires = 0, engine = false,
  worker = '', attempts = unit and unit.index == index and unit.attempts or 0,
})
return ticket
