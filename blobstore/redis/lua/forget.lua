-- Remove expired pins.
-- KEYS[1] pins or owner  zset
if has_type('zset', KEYS[1]) then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now())
end
