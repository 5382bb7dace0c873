-- Move a job from one state to another, when it is in a state that allows it.
--   pause   a queued or running job hands out no more work; what is running may still be committed
--   resume  a paused job hands out work again; the reconciler publishes what is due
--   stop    an unfinished job ends as cancelled or failed
--   revive  a job that ended in the given state continues where it ended: what was committed stays, attempts are
--           forgotten, clips that were missing at the end are due, and it waits for room at its old place in the line
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] clips   hash     segment index -> msgpack
-- KEYS[4] active  zset     ids of unfinished jobs by creation, ms
-- KEYS[5] ended   zset     ids of ended jobs by their end, ms
-- KEYS[6] waiting zset     ids of jobs that wait for room by arrival, us
-- ARGV[1] job id, ARGV[2] 'pause', 'resume', 'stop' or 'revive', ARGV[3] for stop the state to end in, for revive the
-- state it must be in, else '', ARGV[4] for stop the reason, else ''
-- Returns the state the job was in, or '' when there is no such job.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
local state, started = unpack(redis.call('HMGET', KEYS[1], 'state', 'started_at'))
local going = started and 'running' or 'queued'
local action = ARGV[2]
if action == 'pause' and is_running_state(state) then
  redis.call('HSET', KEYS[1], 'state', 'paused')
elseif action == 'resume' and state == 'paused' then
  redis.call('HSET', KEYS[1], 'state', going)
elseif action == 'stop' and is_unfinished(KEYS[1]) then
  finish(KEYS[1], KEYS[2], KEYS[4], KEYS[5], ARGV[1], ARGV[3], ARGV[4])
elseif action == 'revive' and state == ARGV[3] then
  local created, arrival, cursor = unpack(redis.call('HMGET', KEYS[1], 'created_at', 'arrival', 'cursor'))
  redis.call('HSET', KEYS[1], 'state', going)
  redis.call('HDEL', KEYS[1], 'reason', 'finished_at', 'failed_segment', 'attempts', 'failures', 'film', 'winner',
    'admitted', 'settled')
  redis.call('ZADD', KEYS[4], created, ARGV[1])
  redis.call('ZREM', KEYS[5], ARGV[1])
  redis.call('ZADD', KEYS[6], arrival, ARGV[1])
  for index = 0, tonumber(cursor) - 1 do
    if redis.call('HEXISTS', KEYS[3], index) == 0 then
      write_unit(KEYS[2], 'clip:' .. index, new_unit(index))
    end
  end
end
return state or ''
