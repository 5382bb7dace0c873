-- Make a clip real.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] clips   hash     segment index -> msgpack
-- ARGV[1] index, ARGV[2] token, ARGV[3] clip
-- Returns {1 when this call made it real else 0, 1 when every clip is there else 0}; {0, 0} when the token is not the
-- claim's. Who finds the same bytes there (the winner after a lost reply, or a late holder) changes nothing.
local name = 'clip:' .. ARGV[1]
local unit = read_unit(KEYS[2], name)
local mine = unit and unit.token == ARGV[2]
if mine then
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  redis.call('HDEL', KEYS[2], name)
elseif unit or redis.call('HGET', KEYS[3], ARGV[1]) ~= ARGV[3] then
  return { 0, 0 }
end
local segments = tonumber(redis.call('HGET', KEYS[1], 'segments'))
return { mine and 1 or 0, redis.call('HLEN', KEYS[3]) == segments and 1 or 0 }
