-- End an unfinished job from outside: cancelled by a person, or failed with a reason.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] active  zset     ids of unfinished jobs
-- KEYS[4] ended   zset     ids of ended jobs by their end, ms
-- ARGV[1] job id, ARGV[2] 'cancelled' or 'failed', ARGV[3] reason
-- Returns the state the job was in, or '' when there is no such job; only an unfinished job changes.
local state = redis.call('HGET', KEYS[1], 'state')
if is_unfinished(KEYS[1]) then
  finish(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3])
end
return state or ''
