-- Hand out no more work of a job. What is under way may still be committed, and what is committed stays.
-- KEYS[1] record  hash
-- Returns the state the job was in, or '' when there is no such job; only a queued or running job changes.
local state = redis.call('HGET', KEYS[1], 'state')
if is_running(KEYS[1]) then
  redis.call('HSET', KEYS[1], 'state', 'paused')
end
return state or ''
