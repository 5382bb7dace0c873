-- Reserve for a job that is done or cancelled no more than what its blobs really take. A failed one may be tried again.
-- KEYS[1] record   hash
-- KEYS[2] reserved hash    job id -> bytes
-- ARGV[1] job id, ARGV[2] bytes
local state = redis.call('HGET', KEYS[1], 'state')
if (state == 'done' or state == 'cancelled') and redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('HSET', KEYS[1], 'settled', 1)
end
return 1
