-- Delete the record of a job that has ended.
-- KEYS[1] record   hash
-- KEYS[2] spec     hash
-- KEYS[3] units    hash
-- KEYS[4] handoffs hash
-- KEYS[5] clips    hash
-- KEYS[6] jobs     zset
-- KEYS[7] ended    zset
-- KEYS[8] waiting  zset
-- KEYS[9] reserved hash
-- KEYS[10] submitting  set
-- KEYS[11] idempotency hash     hash of an idempotency key -> job id
-- KEYS[12] events   stream
-- KEYS[13] pieces   hash
-- KEYS[14] webhooks hash
-- KEYS[15] takes    hash
-- ARGV[1] job id, ARGV[2] 1 to spare a job that is kept beyond its retention
-- Returns 1, or 0 when the job is unfinished or spared.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if is_unfinished(KEYS[1]) then
  return 0
end
local kept = redis.call('HGET', KEYS[1], 'kept_until')
if ARGV[2] == '1' and kept and (kept == 'forever' or tonumber(kept) > now()) then
  return 0
end
local key = redis.call('HGET', KEYS[1], 'idempotency')
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[12], KEYS[13], KEYS[14], KEYS[15])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('ZREM', KEYS[7], ARGV[1])
redis.call('ZREM', KEYS[8], ARGV[1])
redis.call('HDEL', KEYS[9], ARGV[1])
redis.call('SREM', KEYS[10], ARGV[1])
if key and redis.call('HGET', KEYS[11], key) == ARGV[1] then
  redis.call('HDEL', KEYS[11], key)
end
return 1
