-- Reduce the reservation of an ended job to the size of its blobs.
-- KEYS[1] record   hash
-- KEYS[2] reserved hash    job id -> bytes
-- ARGV[1] job id, ARGV[2] bytes
if not is_newer_record(KEYS[1]) and redis.call('EXISTS', KEYS[1]) == 1 and not is_unfinished(KEYS[1]) then
  redis.call('HSET', KEYS[1], 'settled', 1)
  if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  end
end
return 1
