-- Make a repaired handoff real. With the same bytes as before, the record and everything after it stay. With other bytes
-- the epoch rises, everything made from the old ones is discarded, committed, running or approved, takes too, and the
-- cursor moves back here.
-- Work on earlier segments continues.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash
-- KEYS[4] clips    hash
-- KEYS[5] takes    hash
-- KEYS[6] spec     hash
-- ARGV[1] index, ARGV[2] token, ARGV[3] handoff or '' for the same bytes, ARGV[4] lease ms, ARGV[5] 1 when the clip is lost
-- Returns 0 when the token is not the claim's, 2 when the holder now holds the clip, too, else 1.
local name = 'repair:' .. ARGV[1]
local clip = read_unit(KEYS[2], 'clip:' .. ARGV[1])
local index = tonumber(ARGV[1])
local winner_field = field_of(KEYS[1], 'winner', index)
if redis.call('HGET', KEYS[1], winner_field) == name .. ' ' .. ARGV[2] then
  return clip and clip.token == ARGV[2] and 2 or 1
end
local unit = read_unit(KEYS[2], name)
if not unit or unit.token ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], winner_field, name .. ' ' .. ARGV[2])
redis.call('HDEL', KEYS[1], field_of(KEYS[1], 'progress', index))
redis.call('HDEL', KEYS[2], name)
if ARGV[3] ~= '' then
  discard_after(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], index)
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  clip = nil
elseif ARGV[5] == '1' then
  redis.call('HDEL', KEYS[4], ARGV[1])
end
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 or is_live(clip, now()) then
  return 1
end
local own, following = clip_shows(KEYS[2], KEYS[3], KEYS[5], index)
if own ~= 0 or following ~= -1 then -- another take than the one that the holder has rendered
  if not clip then
    write_unit(KEYS[2], 'clip:' .. index, new_unit(index))
  end
  return 1
end
grant_clip(KEYS[2], ARGV[1], unit, tonumber(ARGV[4]))
return 2
