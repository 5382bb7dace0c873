-- Write a new job, unless its id or its idempotency key is taken, or there is no room for what it starts from. It waits for
-- room for the rest, or first for its blobs to be pinned.
-- KEYS[1] record      hash  the job's scalar fields
-- KEYS[2] spec        hash  'job' and one field per segment, msgpack
-- KEYS[3] handoffs    hash  segment index -> msgpack, of the segments that are committed from the start; '-1': the state
--                           the first segment continues
-- KEYS[4] clips       hash  segment index -> msgpack, of these segments
-- KEYS[5] units       hash  the clips of these segments that are missing
-- KEYS[6] jobs        zset  job id by creation, ms
-- KEYS[7] active      zset  ids of unfinished jobs by creation, ms
-- KEYS[8] waiting     zset  ids of jobs that wait for room by arrival, us
-- KEYS[9] submitting  set   ids of jobs whose blobs are not pinned yet
-- KEYS[10] idempotency hash hash of an idempotency key -> job id
-- KEYS[11] reserved   hash  job id -> bytes of the blob store that are kept for it
-- KEYS[12] takes      hash  of these segments, see prelude_takes.lua
-- ARGV[1] job id, ARGV[2] and ARGV[3] prefix and suffix of the keys of records, ARGV[4] budget in bytes, 0 for no limit,
-- ARGV[5] 1 to write nothing and only say what would become of the request, ARGV[6] to ARGV[10] number of fields of record,
-- spec, handoffs, clips and takes; then their field, value pairs. Fields of the record that matter here:
--   request      token of this request: the same request again, because its reply was lost, gets the same reply
--   cursor       how many segments are committed
--   open         1 when the job waits for more segments at its end, else absent
--   approved     how many segments count as approved, for a job that waits for approval after each, else absent
--   idempotency  hash of the user's idempotency key, if there is one, and 'digest' of what was submitted with it
--   priority     'high' for a job that goes before others, else absent
--   next_part    of a job whose parts may be rendered in parallel, see prelude_parts.lua, else absent
--   needs_bytes  bytes of blobs that the job may need, and 'stored', if any, those that it starts from: they are reserved
--                now, the rest when it is admitted
--   unpinned     JSON list of the blobs that are to be pinned before the job may be admitted, if there are any
-- Returns {outcome, job id}: 'created', 'taken' when another request made this job, for the job with this idempotency key
-- 'same' or 'other', as the digests are equal or not, or 'full' when there is no room for what it starts from.
local contents, at = {}, 11
for part = 1, 5 do
  contents[part] = {}
  for _ = 1, tonumber(ARGV[5 + part]) do
    contents[part][ARGV[at]] = ARGV[at + 1]
    at = at + 2
  end
end
local record = contents[1]
if redis.call('EXISTS', KEYS[1]) == 1 then
  return { redis.call('HGET', KEYS[1], 'request') == record.request and 'created' or 'taken', ARGV[1] }
end
local known = record.idempotency and redis.call('HGET', KEYS[10], record.idempotency)
local its_record = known and ARGV[2] .. known .. ARGV[3]
if known and redis.call('EXISTS', its_record) == 1 then
  return { redis.call('HGET', its_record, 'digest') == record.digest and 'same' or 'other', known }
end

local budget, stored = tonumber(ARGV[4]), tonumber(record.stored or 0)
if budget > 0 and stored > 0 then
  local needs = tonumber(record.needs_bytes)
  if not has_room(budget, KEYS[11], KEYS[8], KEYS[9], ARGV[2], ARGV[3], ARGV[1], stored, needs) then
    return { 'full', ARGV[1] }
  end
end
if ARGV[5] == '1' then
  return { 'created', ARGV[1] }
end
for part, key in ipairs({ KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[12] }) do
  for field, value in pairs(contents[part]) do
    redis.call('HSET', key, field, value)
  end
end
for index = 0, tonumber(record.cursor) - 1 do
  if not contents[4][tostring(index)] then
    write_unit(KEYS[5], 'clip:' .. index, new_unit(index))
  end
end
-- Among jobs that wait for room, those of high priority come first. Such numbers are exact, and below any time.
local BEFORE_ALL_US = 2 ^ 52
local time, arrival = now(), now_us() - (record.priority == 'high' and BEFORE_ALL_US or 0)
arrival = string.format('%.0f', arrival)
local format = (next(contents[5]) or record.next_part) and FORMAT_OF_JOBS or FORMAT
redis.call('HSET', KEYS[1], 'format', format, 'state', 'queued', 'ticket', 0, 'fence', 0, 'epoch', 0,
  'created_at', time, 'arrival', arrival)
for _, packed in pairs(contents[2]) do
  note_format(KEYS[1], packed)
end
redis.call('ZADD', KEYS[6], time, ARGV[1])
redis.call('ZADD', KEYS[7], time, ARGV[1])
if stored > 0 then
  redis.call('HSET', KEYS[11], ARGV[1], record.stored)
end
if record.idempotency then
  redis.call('HSET', KEYS[10], record.idempotency, ARGV[1])
end
if record.unpinned then
  redis.call('SADD', KEYS[9], ARGV[1])
else
  redis.call('ZADD', KEYS[8], arrival, ARGV[1])
end
tell(KEYS[1], 'accepted', { title = record.title, segments = tonumber(record.segments) })
return { 'created', ARGV[1] }
