-- Make a handoff real: the cursor moves, the same holder gets the lease of the clip, and the next segment is announced. In a
-- parallel job it may be that of another part.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash    segment index -> msgpack
-- KEYS[4] queue    hash    'stamp': messages announced
-- KEYS[5] shared   list    the messages that wait in the queue for any worker
-- KEYS[6] high     list    the same with high priority
-- KEYS[7] clips    hash    segment index -> msgpack
-- KEYS[8] takes    hash
-- KEYS[9] spec     hash    'job' and one field per segment, msgpack
-- ARGV[1] index, ARGV[2] token, ARGV[3] handoff, ARGV[4] lease ms, ARGV[5] 1 when the worker has a sticky queue,
-- then of each rendering that is kept as a take what was asked for, its handoff and its clip, msgpack
-- Returns {1}, with a segment and the reply of announce.lua after it when its message is due; or {0} when the token is not
-- the claim's. A repeated call of the winner's gets the same.
local winner = ARGV[1] .. ' ' .. ARGV[2]
local index = tonumber(ARGV[1])
local winner_field, name = field_of(KEYS[1], 'winner', index), segment_unit(KEYS[1], index)
local is_repeated = redis.call('HGET', KEYS[1], winner_field) == winner
if not is_repeated then
  local unit = read_unit(KEYS[2], name)
  if not unit or unit.token ~= ARGV[2] or unit.index ~= index then
    return { 0 }
  end
  local former = clips_show(KEYS[2], KEYS[3], KEYS[8], index - 1, index - 1)
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  if update_clips(KEYS[2], KEYS[3], KEYS[7], KEYS[8], former) then
    redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  end
  for at = 6, #ARGV, 3 do
    need_version_of_takes(KEYS[1], KEYS[2])
    local number = redis.call('HINCRBY', KEYS[8], ARGV[1], 1)
    local field, clip = ARGV[1] .. ':' .. number, cmsgpack.unpack(ARGV[at + 2])
    clip.take = number
    redis.call('HSET', KEYS[8], field, ARGV[at], field .. ':made', ARGV[at + 1], field .. ':clip', cmsgpack.pack(clip))
  end
  advance(KEYS[1], index)
  redis.call('HSET', KEYS[1], winner_field, winner)
  redis.call('HDEL', KEYS[1], field_of(KEYS[1], 'progress', index))
  redis.call('HDEL', KEYS[2], name)
  tell(KEYS[1], 'segment', { segment = index })
  grant_clip(KEYS[2], ARGV[1], unit, tonumber(ARGV[4]))
end
if not is_published(KEYS[1]) then
  return { 1 }
end
local extent = read_extent(KEYS[1])
local next_name = segment_unit(KEYS[1], index + 1)
local known = is_repeated and is_segment_due(extent) and read_unit(KEYS[2], next_name)
if known and not is_claimed(known) then -- its first message may never have been sent
  return { 1, known.index, unpack(announce(KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], next_name, known, ARGV[5] == '1')) }
end
local following = following_segment(KEYS[1], KEYS[2], KEYS[9], index, KEYS[5], KEYS[6])
if not following then
  return { 1 }
end
open_part(KEYS[1], extent, following)
return { 1, following, unpack(announce(KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], segment_unit(KEYS[1], following),
  new_unit(following), ARGV[5] == '1')) }
