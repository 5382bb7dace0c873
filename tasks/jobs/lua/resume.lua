-- Hand out the work of a paused job again; the reconciler publishes what is due.
-- KEYS[1] record  hash
-- Returns the state the job was in, or '' when there is no such job; only a paused job changes.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'paused' then
  local started = redis.call('HEXISTS', KEYS[1], 'started_at') == 1
  redis.call('HSET', KEYS[1], 'state', started and 'running' or 'queued')
end
return state or ''
