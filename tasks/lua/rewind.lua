-- Lay down a claim and take back every commit from segment `index` on, because its blobs were lost; the epoch rises.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash
-- KEYS[4] clips    hash
-- ARGV[1] unit name, ARGV[2] token, ARGV[3] index
-- Returns 1, or 0 when the token is not the claim's.
local unit = read_unit(KEYS[2], ARGV[1])
if not unit or unit.token ~= ARGV[2] then
  return 0
end
local index = tonumber(ARGV[3])
for i = index, tonumber(redis.call('HGET', KEYS[1], 'cursor')) - 1 do
  redis.call('HDEL', KEYS[3], i)
  redis.call('HDEL', KEYS[4], i)
end
redis.call('HSET', KEYS[1], 'cursor', index, 'chained', math.min(index - 1, tonumber(redis.call('HGET', KEYS[1], 'chained'))))
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HDEL', KEYS[1], 'progress')
redis.call('DEL', KEYS[2])
return 1
