-- Move a job from one state to another, when it is in a state that allows it.
--   pause   a queued or running job hands out no more work; what is running may still be committed
--   resume  a paused job hands out work again; the reconciler publishes what is due
--   stop    an unfinished job ends as cancelled or failed; one whose film is done, and that renders takes, as done
--   revive  a job that ended in the given state continues where it ended: what was committed stays, attempts are
--           forgotten, clips that were missing at the end are due, and it waits for room at its old place in the line
--   submit  a job whose blobs are pinned waits for room
-- The record keeps the tokens of the last requests with their replies: the same request again changes nothing.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] clips   hash     segment index -> msgpack
-- KEYS[4] active  zset     ids of unfinished jobs by creation, ms
-- KEYS[5] ended   zset     ids of ended jobs by their end, ms
-- KEYS[6] waiting zset     ids of jobs that wait for room by arrival, us
-- KEYS[7] submitting set    ids of jobs whose blobs are not pinned yet
-- KEYS[8] takes   hash
-- ARGV[1] job id, ARGV[2] 'pause', 'resume', 'stop', 'revive' or 'submit', ARGV[3] for stop the state to end in, for
-- revive the state it must be in, else '', ARGV[4] for stop the reason, else '', ARGV[5] token of the request, '' for
-- submit, which may be repeated without one
-- Returns the state the job was in, or '' when there is no such job.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
local state = redis.call('HGET', KEYS[1], 'state')
if state and ARGV[5] ~= '' then
  local reply = earlier_reply(KEYS[1], ARGV[5])
  if reply then
    return reply
  end
  note_request(KEYS[1], ARGV[5], state)
end
local action = ARGV[2]
if action == 'pause' and is_running_state(state) then
  redis.call('HSET', KEYS[1], 'state', 'paused')
  tell(KEYS[1], 'paused', {})
elseif action == 'resume' and state == 'paused' then
  redis.call('HSET', KEYS[1], 'state', going_state(KEYS[1]))
  tell(KEYS[1], 'resumed', {})
elseif action == 'stop' and is_unfinished(KEYS[1]) then
  local is_done = ARGV[3] == 'cancelled' and has_current_film(KEYS[1])
  finish(KEYS[1], KEYS[2], KEYS[8], KEYS[4], KEYS[5], ARGV[1], is_done and 'done' or ARGV[3], is_done and '' or ARGV[4])
elseif action == 'revive' and state == ARGV[3] then
  revive(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[1])
  redis.call('HDEL', KEYS[1], 'admitted')
  if state == 'done' then -- its film was lost
    redis.call('HDEL', KEYS[1], 'film', 'outdated')
  end
  outdate_film(KEYS[1], KEYS[2])
  redis.call('ZADD', KEYS[6], redis.call('HGET', KEYS[1], 'arrival'), ARGV[1])
  tell(KEYS[1], 'retried', {})
elseif action == 'submit' then
  redis.call('SREM', KEYS[7], ARGV[1])
  if redis.call('HDEL', KEYS[1], 'unpinned') == 1 and is_unfinished(KEYS[1]) then
    redis.call('ZADD', KEYS[6], redis.call('HGET', KEYS[1], 'arrival'), ARGV[1])
  end
end
return state or ''
