-- Forget pins that have expired.
-- KEYS[1] pins or owner  zset
if is_a('zset', KEYS[1]) then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now())
end
