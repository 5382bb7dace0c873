-- Drop all pins of an owner; blobs that nobody else pins get an ordinary life again.
-- KEYS[1] owner  zset
-- ARGV[1] owner, ARGV[2] ttl ms, ARGV[3] what blob keys and ARGV[4] what pins keys begin with
-- Returns how many live pins there were.
local time = now()
local live = redis.call('ZCOUNT', KEYS[1], '(' .. time, '+inf')
for _, hex in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local blob, pins = ARGV[3] .. hex, ARGV[4] .. hex
  redis.call('ZREM', pins, ARGV[1])
  settle_pins(pins)
  settle(blob, pins, tonumber(ARGV[2]), time)
end
redis.call('UNLINK', KEYS[1])
return live
