-- Drop some pins of an owner, those that expire first; blobs that nobody else pins get an ordinary life again.
-- KEYS[1] owner  zset
-- ARGV[1] owner, ARGV[2] ttl ms, ARGV[3] what blob keys and ARGV[4] what pins keys begin with, ARGV[5] how many at most
-- Returns how many there were; fewer than ARGV[5] means that none is left.
local time = now()
-- What a pin that has expired kept is not renewed.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time)
local hexes = redis.call('ZRANGE', KEYS[1], 0, ARGV[5] - 1)
for _, hex in ipairs(hexes) do
  local blob, pins = ARGV[3] .. hex, ARGV[4] .. hex
  redis.call('ZREM', pins, ARGV[1])
  settle_pins(pins)
  settle(blob, pins, tonumber(ARGV[2]), time)
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, ARGV[5] - 1)
return #hexes
