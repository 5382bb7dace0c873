-- Take a failed job, or one whose film was lost, up again: what was committed stands, and its attempts are forgotten. A
-- clip that was still in the making when the job ended is due. It waits for room at its old place in the line.
-- KEYS[1] record  hash
-- KEYS[2] active  zset     ids of unfinished jobs by creation, ms
-- KEYS[3] ended   zset     ids of ended jobs
-- KEYS[4] waiting zset     ids of jobs that wait for room by arrival, us
-- KEYS[5] units   hash
-- KEYS[6] clips   hash     segment index -> msgpack
-- ARGV[1] job id, ARGV[2] the state it must be in
-- Returns the state the job was in, or '' when there is no such job.
local state = redis.call('HGET', KEYS[1], 'state')
if state == ARGV[2] then
  local created = redis.call('HGET', KEYS[1], 'created_at')
  local started = redis.call('HEXISTS', KEYS[1], 'started_at') == 1
  redis.call('HSET', KEYS[1], 'state', started and 'running' or 'queued')
  redis.call('HDEL', KEYS[1], 'reason', 'finished_at', 'failed_segment', 'attempts', 'film', 'winner', 'admitted', 'settled')
  redis.call('ZADD', KEYS[2], created, ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('ZADD', KEYS[4], redis.call('HGET', KEYS[1], 'arrival'), ARGV[1])
  for index = 0, tonumber(redis.call('HGET', KEYS[1], 'cursor')) - 1 do
    if redis.call('HEXISTS', KEYS[6], index) == 0 then
      write_unit(KEYS[5], 'clip:' .. index, new_unit(index))
    end
  end
end
return state or ''
