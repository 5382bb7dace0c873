-- Clips were lost: they must be made again before the film can be. The epoch rises.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] clips   hash
-- ARGV[1] unit name of the caller's claim, ARGV[2] token, then the index of each lost clip
-- Returns 1, or 0 when the token is not the claim's.
local unit = read_unit(KEYS[2], ARGV[1])
if not unit or unit.token ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
for number = 3, #ARGV do
  redis.call('HDEL', KEYS[3], ARGV[number])
  write_unit(KEYS[2], 'clip:' .. ARGV[number], new_unit(tonumber(ARGV[number])))
end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
return 1
