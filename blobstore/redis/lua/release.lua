-- Remove some pins of an owner, those that expire first. Blobs without another pin expire after their ttl.
-- The keys of the blobs are not in KEYS, because the zset names them: one server only, no Redis Cluster.
-- KEYS[1] owner  zset
-- ARGV[1] owner, ARGV[2] ttl ms, ARGV[3] prefix of blob keys, ARGV[4] prefix of pins keys, ARGV[5] maximum number
-- Returns the number of removed pins; fewer than ARGV[5] means that none is left.
local time = now()
-- The blobs of expired pins are not renewed.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time)
local hexes = redis.call('ZRANGE', KEYS[1], 0, ARGV[5] - 1)
for _, hex in ipairs(hexes) do
  local blob, pins = ARGV[3] .. hex, ARGV[4] .. hex
  redis.call('ZREM', pins, ARGV[1])
  set_pins_expiry(pins)
  set_expiry(blob, pins, tonumber(ARGV[2]), time)
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, ARGV[5] - 1)
return #hexes
