-- Reserve room for a piece for live players, if the budget has some that is reserved for no job. Until the piece is noted or
-- its room is released, the record has a field 'piece:<name>' with its bytes: to repeat it reserves nothing more.
-- KEYS[1] record   hash
-- KEYS[2] reserved hash    job id -> bytes of the blob store that are kept for it
-- KEYS[3] pieces   hash    see note_piece.lua
-- ARGV[1] job id, ARGV[2] name of the piece, ARGV[3] its bytes, ARGV[4] budget in bytes, 0 for no limit
-- Returns 1, or 0 when there is no room, or no such job that was admitted.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if redis.call('HEXISTS', KEYS[1], 'admitted') == 0 then
  return 0
end
local field = 'piece:' .. ARGV[2]
if redis.call('HEXISTS', KEYS[1], field) == 1 or redis.call('HEXISTS', KEYS[3], ARGV[2]) == 1 then
  return 1
end
if reserve_more(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])) then
  return 0
end
redis.call('HSET', KEYS[1], field, ARGV[3])
return 1
