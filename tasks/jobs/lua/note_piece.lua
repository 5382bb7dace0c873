-- Record a piece for live players, made from clips of a job.
-- KEYS[1] record  hash
-- KEYS[2] pieces  hash   name of the piece, by what it is made of -> JSON
-- ARGV[1] name, ARGV[2] JSON
-- Returns 1, or 0 when there is no such job.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
