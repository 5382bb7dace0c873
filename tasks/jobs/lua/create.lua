-- Write a new job, unless its id or its idempotency key is taken. It waits for room, or first for its blobs to be pinned.
-- KEYS[1] record      hash  the job's scalar fields
-- KEYS[2] spec        hash  'job' and one field per segment, msgpack
-- KEYS[3] handoffs    hash  '-1': the state the first segment continues, msgpack, or nothing
-- KEYS[4] jobs        zset  job id by creation, ms
-- KEYS[5] active      zset  ids of unfinished jobs by creation, ms
-- KEYS[6] waiting     zset  ids of jobs that wait for room by arrival, us
-- KEYS[7] submitting  set   ids of jobs whose blobs are not pinned yet
-- KEYS[8] idempotency hash  hash of an idempotency key -> job id
-- ARGV[1] job id, ARGV[2] start handoff or '', ARGV[3] and ARGV[4] prefix and suffix of the keys of records,
-- ARGV[5] number of record fields; then field, value pairs: record's, spec's. Fields of the record that matter here:
--   request      token of this request: the same request again, because its reply was lost, gets the same reply
--   idempotency  hash of the user's idempotency key, if there is one, and 'digest' of what was submitted with it
--   unpinned     JSON list of the blobs that are to be pinned before the job may be admitted, if there are any
-- Returns {outcome, job id}: 'created', 'taken' when another request made this job, or for the job with this idempotency
-- key 'same' or 'other', as the digests are equal or not.
local record, spec = {}, {}
local fields = tonumber(ARGV[5])
for i = 6, #ARGV, 2 do
  local into = (i - 6) / 2 < fields and record or spec
  into[ARGV[i]] = ARGV[i + 1]
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return { redis.call('HGET', KEYS[1], 'request') == record.request and 'created' or 'taken', ARGV[1] }
end
local known = record.idempotency and redis.call('HGET', KEYS[8], record.idempotency)
local its_record = known and ARGV[3] .. known .. ARGV[4]
if known and redis.call('EXISTS', its_record) == 1 then
  return { redis.call('HGET', its_record, 'digest') == record.digest and 'same' or 'other', known }
end
for field, value in pairs(record) do
  redis.call('HSET', KEYS[1], field, value)
end
for field, value in pairs(spec) do
  redis.call('HSET', KEYS[2], field, value)
end
local time, arrival = now(), string.format('%.0f', now_us())
redis.call('HSET', KEYS[1], 'format', FORMAT, 'state', 'queued', 'cursor', 0, 'chained', -1, 'ticket', 0, 'fence', 0,
  'epoch', 0, 'created_at', time, 'arrival', arrival)
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[3], '-1', ARGV[2])
end
redis.call('ZADD', KEYS[4], time, ARGV[1])
redis.call('ZADD', KEYS[5], time, ARGV[1])
if record.idempotency then
  redis.call('HSET', KEYS[8], record.idempotency, ARGV[1])
end
if record.unpinned then
  redis.call('SADD', KEYS[7], ARGV[1])
else
  redis.call('ZADD', KEYS[6], arrival, ARGV[1])
end
return { 'created', ARGV[1] }
