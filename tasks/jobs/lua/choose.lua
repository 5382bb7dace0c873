-- Choose the take of a segment that the film shows. A take of several segments is shown whole; where it was and only
-- some of its segments are chosen now, the others show again what the segments after them continue. If that is a take of
-- these segments, too, the choice is refused. Clips that showed other takes are made again, then the film; the old film
-- stays until then. A job that has ended runs again until its film is joined.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash
-- KEYS[4] clips    hash
-- KEYS[5] takes    hash     see prelude_takes.lua
-- KEYS[6] active   zset     ids of unfinished jobs by creation, ms
-- KEYS[7] ended    zset     ids of ended jobs by their end, ms
-- KEYS[8] reserved hash     job id -> bytes of the blob store that are kept for it
-- ARGV[1] job id, ARGV[2] token of the request, ARGV[3] segment, ARGV[4] number of the take, ARGV[5] budget in bytes, 0
-- for no limit, ARGV[6] bytes that the new clips and the new film need
-- Returns {'shown', number of the take that was shown}, {'missing'} when there is no such job, {'not rendered',
-- segments that are}, {'ended', state}, {'no take', number of the newest}, {'not made'}, {'apart', number of the take
-- that the next segment continues, this take's last segment} when it does not lead into that, or {'full', bytes that
-- are reserved for all jobs}.
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
if number > 0 and redis.call('HEXISTS', KEYS[5], index .. ':' .. number) == 0 then
  return { 'no take', tonumber(redis.call('HGET', KEYS[5], ARGV[3]) or 0) }
end
if number > 0 and not is_whole(KEYS[5], index, number) then
  return { 'not made', 0 }
end
local first, last = segments_of(KEYS[5], index, number)
local continued = continued_take(KEYS[2], KEYS[3], last)
local made = handoff_of(KEYS[3], KEYS[5], last, number)
if continued and continued ~= number and packed_number(made, 'pinned_to', -1) ~= continued then
  return { 'apart', continued, last }
end
local shown = shown_take(KEYS[5], index)
if shown == number then
  return { 'shown', shown }
end
local _, highest = segments_of(KEYS[5], last, shown_take(KEYS[5], last))
local after, begin = continued_takes(KEYS[2], KEYS[3], KEYS[5], last + 1, highest, last + 1)
if begin <= last then
  local _, its_last = segments_of(KEYS[5], last, after[last])
  return { 'apart', after[last], its_last }
end
local its_first = segments_of(KEYS[5], first, shown_take(KEYS[5], first))
local wanted, lowest = continued_takes(KEYS[2], KEYS[3], KEYS[5], its_first, first - 1, 0)
local full = reserve_more(KEYS[1], KEYS[8], ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[5]))
if full then
  return { 'full', string.format('%.0f', full) }
end
need_version_of_takes(KEYS[1], KEYS[2])
for segment = first, last do
  wanted[segment] = number
end
for segment = last + 1, highest do
  wanted[segment] = after[segment]
end
local former = clips_show(KEYS[2], KEYS[3], KEYS[5], lowest - 1, highest + 1)
show_takes(KEYS[5], wanted)
if update_clips(KEYS[2], KEYS[3], KEYS[4], KEYS[5], former) then
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
end
outdate_film(KEYS[1], KEYS[2])
tell(KEYS[1], 'chosen', { segment = first, last = last ~= first and last or nil, take = number })
wake(KEYS[1], KEYS[2], KEYS[4], KEYS[6], KEYS[7], ARGV[1])
note_request(KEYS[1], ARGV[2], shown)
return { 'shown', shown }
