-- Record that the message of a segment was published.
-- KEYS[1] record  hash
-- ARGV[1] segment index
if redis.call('EXISTS', KEYS[1]) == 1 and tonumber(redis.call('HGET', KEYS[1], 'chained')) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'chained', ARGV[1])
end
return 1
