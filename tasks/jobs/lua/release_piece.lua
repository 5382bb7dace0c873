-- Give back the room of a piece for live players that was not stored. To repeat it changes nothing.
-- KEYS[1] record   hash
-- KEYS[2] reserved hash    job id -> bytes of the blob store that are kept for it
-- ARGV[1] job id, ARGV[2] name of the piece
-- Returns 1.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
local bytes = give_up_room(KEYS[1], 'piece:' .. ARGV[2])
if bytes > 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[1], -bytes)
end
return 1
