-- Write a new job, which waits for room; nothing is written when the id is taken.
-- KEYS[1] record  hash     the job's scalar fields
-- KEYS[2] spec    hash     'job' and one field per segment, msgpack
-- KEYS[3] handoffs hash    '-1': the state the first segment continues, msgpack, or nothing
-- KEYS[4] jobs    zset     job id by creation, ms
-- KEYS[5] active  zset     ids of unfinished jobs by creation, ms
-- KEYS[6] waiting zset     ids of jobs that wait for room by arrival, us
-- ARGV[1] job id, ARGV[2] start handoff or '', ARGV[3] number of record fields; then field, value pairs: record's, spec's
-- Returns 1, or 0 when the id is taken.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local time = now()
local fields = tonumber(ARGV[3])
for i = 4, #ARGV, 2 do
  local key = (i - 4) / 2 < fields and KEYS[1] or KEYS[2]
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
local arrival = string.format('%.0f', now_us())
redis.call('HSET', KEYS[1], 'format', FORMAT, 'state', 'queued', 'cursor', 0, 'chained', -1, 'ticket', 0, 'fence', 0,
  'epoch', 0, 'created_at', time, 'arrival', arrival)
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[3], '-1', ARGV[2])
end
redis.call('ZADD', KEYS[4], time, ARGV[1])
redis.call('ZADD', KEYS[5], time, ARGV[1])
redis.call('ZADD', KEYS[6], arrival, ARGV[1])
return 1
