-- Ask for takes of a committed segment, or each of several neighbours, which are rendered one after the other. A job
-- that has ended runs again until they are rendered.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] clips    hash
-- KEYS[4] takes    hash     see prelude_takes.lua
-- KEYS[5] active   zset     ids of unfinished jobs by creation, ms
-- KEYS[6] ended    zset     ids of ended jobs by their end, ms
-- KEYS[7] reserved hash     job id -> bytes of the blob store that are kept for it
-- ARGV[1] job id, ARGV[2] token of the request, ARGV[3] and ARGV[4] first and last segment, ARGV[5] budget in bytes, 0
-- for no limit, ARGV[6] bytes that the takes need together, then what is asked for of each take and segment, msgpack
-- Returns {'queued', number of the first}, {'missing'} when there is no such job, {'other', number of the first} when
-- something else was asked for with this token, {'not rendered', segments that are}, {'ended', state} or {'full', bytes that
-- are reserved for all jobs}.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
local digest = redis.sha1hex(ARGV[4] .. ' ' .. table.concat(ARGV, ' ', 7))
local first, is_other = earlier_reply(KEYS[1], ARGV[2], digest)
if first then
  return { is_other and 'other' or 'queued', first }
end
local first_segment, last_segment = tonumber(ARGV[3]), tonumber(ARGV[4])
for segment = first_segment, last_segment do
  local refused = refusal_of_takes(KEYS[1], segment)
  if refused then
    return refused
  end
end
local full = reserve_more(KEYS[1], KEYS[7], ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[5]))
if full then
  return { 'full', string.format('%.0f', full) }
end
need_version_of_takes(KEYS[1], KEYS[2])
local newest = 0
for segment = first_segment, last_segment do
  newest = math.max(newest, tonumber(redis.call('HGET', KEYS[4], segment) or 0))
end
local count = last_segment - first_segment + 1
for at = 7, #ARGV do
  local segment, number = first_segment + (at - 7) % count, newest + 1 + math.floor((at - 7) / count)
  local unit = new_unit(segment)
  if segment > first_segment then
    unit.after = 'take:' .. segment - 1 .. ':' .. number
  end
  redis.call('HSET', KEYS[4], segment, number, segment .. ':' .. number, ARGV[at])
  write_unit(KEYS[2], 'take:' .. segment .. ':' .. number, unit)
end
wake(KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6], ARGV[1])
note_request(KEYS[1], ARGV[2], newest + 1, digest)
return { 'queued', newest + 1 }
