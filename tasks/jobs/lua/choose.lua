-- Choose the take of a segment that the film shows. Clips that showed another one are made again, then the film; the old
-- film stays until then. A job that has ended runs again until its film is joined.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash
-- KEYS[4] clips    hash
-- KEYS[5] takes    hash     see prelude_takes.lua
-- KEYS[6] active   zset     ids of unfinished jobs by creation, ms
-- KEYS[7] ended    zset     ids of ended jobs by their end, ms
-- KEYS[8] reserved hash     job id -> bytes of the blob store that are kept for it
-- ARGV[1] job id, ARGV[2] token of the request, ARGV[3] segment, ARGV[4] number of the take, ARGV[5] budget in bytes, 0 for
-- no limit, ARGV[6] bytes that the new clips and the new film need
-- Returns {'shown', number of the take that was shown}, {'missing'} when there is no such job, {'not rendered', segments that
-- are}, {'ended', state}, {'no take', number of the newest}, {'not made'}, {'apart', number of the take that the next segment
-- continues} when this one does not lead into it, or {'full', bytes that are reserved for all jobs}.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
local before = earlier_reply(KEYS[1], ARGV[2])
if before then
  return { 'shown', before }
end
local index, number = tonumber(ARGV[3]), tonumber(ARGV[4])
local refused = refusal_of_takes(KEYS[1], index)
if refused then
  return refused
end
local newest = tonumber(redis.call('HGET', KEYS[5], ARGV[3]) or 0)
if number > newest then
  return { 'no take', newest }
end
local made = handoff_of(KEYS[3], KEYS[5], index, number)
if not made then
  return { 'not made', 0 }
end
local continued = continued_take(KEYS[2], KEYS[3], index)
if continued and continued ~= number and packed_number(made, 'pinned_to', -1) ~= continued then
  return { 'apart', continued }
end
local shown = shown_take(KEYS[5], index)
if shown == number then
  return { 'shown', shown }
end
local full = reserve_more(KEYS[1], KEYS[8], ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[5]))
if full then
  return { 'full', string.format('%.0f', full) }
end
need_version_of_takes(KEYS[1], KEYS[2])
local own = { clip_shows(KEYS[2], KEYS[3], KEYS[5], index) }
local earlier = { clip_shows(KEYS[2], KEYS[3], KEYS[5], index - 1) }
if number == 0 then
  redis.call('HDEL', KEYS[5], ARGV[3] .. ':shown')
else
  redis.call('HSET', KEYS[5], ARGV[3] .. ':shown', number)
end
local replaced = update_clip(KEYS[2], KEYS[3], KEYS[4], KEYS[5], index, unpack(own))
if index > 0 then
  replaced = update_clip(KEYS[2], KEYS[3], KEYS[4], KEYS[5], index - 1, unpack(earlier)) or replaced
end
if replaced then
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
end
outdate_film(KEYS[1], KEYS[2])
tell(KEYS[1], 'chosen', { segment = index, take = number })
wake(KEYS[1], KEYS[2], KEYS[4], KEYS[6], KEYS[7], ARGV[1])
note_request(KEYS[1], ARGV[2], shown)
return { 'shown', shown }
