-- The clip of segment `index` was lost: it must be made again before the film can be.
-- KEYS[1] units   hash
-- KEYS[2] clips   hash
-- ARGV[1] unit name of the caller's claim, ARGV[2] token, ARGV[3] index
-- Returns 1, or 0 when the token is not the claim's.
local unit = read_unit(KEYS[1], ARGV[1])
if not unit or unit.token ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[3])
write_unit(KEYS[1], 'clip:' .. ARGV[3], {
  index = tonumber(ARGV[3]), ticket = 0, stamp = 0, announced = 0, token = '', fence = 0, expires = 0, engine = false,
  worker = '', attempts = 0,
})
return 1
