-- Make a segment of a take real, rendered for the first time or again. With the bytes of before, the record and everything
-- after it stay. With other bytes everything made from the old ones is discarded, as by commit_repair.lua: the take itself,
-- too, if it is one of several segments and a later one of them was rendered.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash
-- KEYS[4] clips    hash
-- KEYS[5] takes    hash     see prelude_takes.lua
-- KEYS[6] active   zset     ids of unfinished jobs
-- KEYS[7] ended    zset     ids of ended jobs by their end, ms
-- KEYS[8] spec     hash
-- ARGV[1] job id, ARGV[2] segment, ARGV[3] number of the take, ARGV[4] token, ARGV[5] handoff, ARGV[6] its clip,
-- ARGV[7] 1 when it has the bytes of before
-- Returns 1, or 0 when the token is not the claim's. A repeated call of the winner's gets 1.
local field = ARGV[2] .. ':' .. ARGV[3]
local name = 'take:' .. field
local index, number = tonumber(ARGV[2]), tonumber(ARGV[3])
local unit = read_unit(KEYS[2], name)
if not unit or unit.token ~= ARGV[4] then
  return redis.call('HGET', KEYS[5], field .. ':winner') == ARGV[4] and 1 or 0
end
local first, last = segments_of(KEYS[5], index, number)
local is_other = redis.call('HEXISTS', KEYS[5], field .. ':made') == 1 and ARGV[7] ~= '1'
local falls = is_other and index < last
  and redis.call('HEXISTS', KEYS[5], (index + 1) .. ':' .. number .. ':made') == 1
redis.call('HDEL', KEYS[2], name)
redis.call('HSET', KEYS[5], field .. ':winner', ARGV[4])
if falls then
  local was_shown = shown_take(KEYS[5], index) == number
  if continued_take(KEYS[2], KEYS[3], last) == number then
    discard_after(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[8], last)
  end
  discard_take(KEYS[2], KEYS[3], KEYS[4], KEYS[5], index, number)
  if was_shown then
    outdate_film(KEYS[1], KEYS[2])
    redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  end
elseif is_other then
  if continued_take(KEYS[2], KEYS[3], index) == number then
    discard_after(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[8], index)
  elseif shown_take(KEYS[5], index) == number then
    outdate_film(KEYS[1], KEYS[2])
    discard_clip(KEYS[2], KEYS[4], index)
    local _, crossfaded = clip_shows(KEYS[2], KEYS[3], KEYS[5], index - 1)
    if crossfaded == number then
      discard_clip(KEYS[2], KEYS[4], index - 1)
    end
    local _, _, dissolves_from = clip_shows(KEYS[2], KEYS[3], KEYS[5], index + 1)
    if dissolves_from == number then
      discard_clip(KEYS[2], KEYS[4], index + 1)
    end
    redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  end
end
if not falls then
  redis.call('HSET', KEYS[5], field .. ':made', ARGV[5], field .. ':clip', ARGV[6])
  redis.call('HDEL', KEYS[5], field .. ':failed')
end
if is_other then
  make_clips_due(KEYS[1], KEYS[2], KEYS[4])
end
if is_whole(KEYS[5], index, number) then
  tell(KEYS[1], 'take', { segment = first, last = last ~= first and last or nil, take = number })
end
finish_if_done(KEYS[1], KEYS[2], KEYS[5], KEYS[6], KEYS[7], ARGV[1])
return 1
