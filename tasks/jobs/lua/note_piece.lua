-- Record a piece for live players, made from clips of a job, for which room was reserved. To repeat it changes nothing.
-- KEYS[1] record  hash
-- KEYS[2] pieces  hash   name of the piece, by what it is made of -> JSON
-- ARGV[1] name, ARGV[2] JSON
-- Returns 1, or 0 when there is no such job, or when the room was given back meanwhile.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return 1
end
if redis.call('HDEL', KEYS[1], 'piece:' .. ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
