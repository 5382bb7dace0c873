-- Make a repaired handoff real. With the same bytes as before, the record and everything after it stay. With other bytes
-- the epoch rises, everything made from the old ones is discarded, committed, running or approved, and the cursor moves back
-- here.
-- Work on earlier segments continues.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash
-- KEYS[4] clips    hash
-- ARGV[1] index, ARGV[2] token, ARGV[3] handoff or '' for the same bytes, ARGV[4] lease ms, ARGV[5] 1 when the clip is lost
-- Returns 0 when the token is not the claim's, 2 when the holder now holds the clip, too, else 1.
local name = 'repair:' .. ARGV[1]
local clip = read_unit(KEYS[2], 'clip:' .. ARGV[1])
if redis.call('HGET', KEYS[1], 'winner') == name .. ' ' .. ARGV[2] then
  return clip and clip.token == ARGV[2] and 2 or 1
end
local unit = read_unit(KEYS[2], name)
if not unit or unit.token ~= ARGV[2] then
  return 0
end
local index = tonumber(ARGV[1])
redis.call('HSET', KEYS[1], 'winner', name .. ' ' .. ARGV[2])
redis.call('HDEL', KEYS[1], 'progress')
redis.call('HDEL', KEYS[2], name)
if ARGV[3] ~= '' then
  for later = index, tonumber(redis.call('HGET', KEYS[1], 'cursor')) - 1 do
    redis.call('HDEL', KEYS[3], later)
    redis.call('HDEL', KEYS[4], later)
  end
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  tell(KEYS[1], 'rewound', { segment = index, epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1) })
  local chained = math.min(index, tonumber(redis.call('HGET', KEYS[1], 'chained')))
  redis.call('HSET', KEYS[1], 'cursor', index + 1, 'chained', chained)
  local approved = read_extent(KEYS[1]).approved
  if approved and approved ~= ALL_APPROVED then  -- nobody has seen the new bytes
    redis.call('HSET', KEYS[1], 'approved', math.min(approved, index))
  end
  for _, other in ipairs(redis.call('HKEYS', KEYS[2])) do
    if other == 'segment' or other == 'film' or read_unit(KEYS[2], other).index >= index then
      redis.call('HDEL', KEYS[2], other)
    end
  end
  clip = nil
elseif ARGV[5] == '1' then
  redis.call('HDEL', KEYS[4], ARGV[1])
end
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 or is_live(clip, now()) then
  return 1
end
grant_clip(KEYS[2], ARGV[1], unit, tonumber(ARGV[4]))
return 2
