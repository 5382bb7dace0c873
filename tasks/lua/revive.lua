-- Take a failed job up again: what was committed stands, and its attempts are forgotten.
-- KEYS[1] record  hash
-- KEYS[2] active  zset     ids of unfinished jobs by creation, ms
-- KEYS[3] ended   zset     ids of ended jobs
-- ARGV[1] job id
-- Returns the state the job was in, or '' when there is no such job; only a failed job changes.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'failed' then
  redis.call('HSET', KEYS[1], 'state', 'running')
  redis.call('HDEL', KEYS[1], 'reason', 'finished_at', 'failed_segment', 'attempts')
  redis.call('ZADD', KEYS[2], redis.call('HGET', KEYS[1], 'created_at'), ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
end
return state or ''
