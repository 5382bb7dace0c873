-- Make a handoff real: the cursor moves on, and the same holder gets the lease of the clip.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash    segment index -> msgpack
-- ARGV[1] index, ARGV[2] token, ARGV[3] handoff, ARGV[4] lease ms
-- Returns 1, or 0 when the token is not the claim's (a repeated call of the winner's gets 1).
local winner = ARGV[1] .. ' ' .. ARGV[2]
if redis.call('HGET', KEYS[1], 'winner') == winner then
  return 1
end
local index = tonumber(ARGV[1])
local unit = read_unit(KEYS[2], 'segment')
if not unit or unit.token ~= ARGV[2] or unit.index ~= index then
  return 0
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[1], 'cursor', index + 1, 'winner', winner)
redis.call('HDEL', KEYS[1], 'progress')
redis.call('HDEL', KEYS[2], 'segment')
grant_clip(KEYS[2], ARGV[1], unit, tonumber(ARGV[4]))
return 1
