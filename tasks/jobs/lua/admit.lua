-- Admit the job that has waited longest for room, if its whole estimate fits next to what is reserved. No new job
-- passes another, except one of high priority, which arrives before all others. A new job has reserved the bytes of
-- what it starts from. A revived job still has reserved what its blobs take: it blocks no other job when it does not
-- fit, and a new job that does not fit does not block it. Paused jobs, and jobs of a newer major version, are skipped.
-- KEYS[1] waiting  zset    ids of jobs that wait for room by arrival, us
-- KEYS[2] reserved hash    job id -> bytes of the blob store that are kept for it
-- KEYS[3] active   zset    ids of unfinished jobs by creation, ms
-- ARGV[1] budget in bytes, 0 for no limit, ARGV[2] and ARGV[3] prefix and suffix of the keys of records
-- Returns {'admitted', id, bytes it needs}, {'gone', id, 0} for one that ended while it waited, {'never', id, bytes it
-- needs}, {'damaged', id, 0} for one whose record does not say what it needs, or {'wait', '', 0}.
local budget = tonumber(ARGV[1])
local reserved, blocked = reserved_bytes(KEYS[2]), false
for _, job_id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local record = ARGV[2] .. job_id .. ARGV[3]
  local kind, needs = redis.call('TYPE', record).ok, needs_of(record)
  local newer = kind == 'hash' and is_newer_record(record)
  if not newer and not needs and kind ~= 'none' then
    redis.call('ZREM', KEYS[1], job_id)
    return { 'damaged', job_id, 0 }
  end
  if not newer and not is_unfinished(record) then
    redis.call('ZREM', KEYS[1], job_id)
    return { 'gone', job_id, 0 }
  end
  local held = redis.call('HGET', KEYS[2], job_id)
  local revived = held and redis.call('HEXISTS', record, 'stored') == 0
  if not newer and is_running(record) and (revived or not blocked) then
    if budget > 0 and needs > budget then
      return { 'never', job_id, needs }
    end
    if budget == 0 or reserved - tonumber(held or 0) + needs <= budget then
      redis.call('HSET', KEYS[2], job_id, string.format('%.0f', needs))
      redis.call('HSET', record, 'admitted', 1)
      redis.call('HDEL', record, 'stored')
      redis.call('ZREM', KEYS[1], job_id)
      tell(record, 'queued', { jobs_ahead = redis.call('ZRANK', KEYS[3], job_id) or 0 })
      return { 'admitted', job_id, needs }
    end
    blocked = blocked or not revived
  end
end
return { 'wait', '', 0 }
