-- Reserve room for a piece for live players, if the budget has some that is reserved for no job.
-- KEYS[1] record   hash
-- KEYS[2] reserved hash    job id -> bytes of the blob store that are kept for it
-- ARGV[1] job id, ARGV[2] bytes of the piece, ARGV[3] budget in bytes, 0 for no limit
-- Returns 1, or 0 when there is no room, or no such job that was admitted.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return 0
end
local budget = tonumber(ARGV[3])
if budget > 0 and reserved_bytes(KEYS[2]) + tonumber(ARGV[2]) > budget then
  return 0
end
redis.call('HINCRBY', KEYS[1], 'needs_bytes', ARGV[2])
redis.call('HINCRBY', KEYS[2], ARGV[1], ARGV[2])
return 1
