-- Admit the job that has waited longest for room, if its whole estimate fits beside what is reserved.
-- KEYS[1] waiting  zset    ids of jobs that wait for room by arrival, us
-- KEYS[2] reserved hash    job id -> bytes of the blob store that are kept for it
-- ARGV[1] budget in bytes, 0 for no limit, ARGV[2] and ARGV[3] what the keys of records begin and end with
-- Returns {'admitted', id}, {'never', id, bytes it needs}, or {'wait'} when nobody waits or the first one does not fit.
local job_id = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
if not job_id then
  return { 'wait' }
end
local record = ARGV[2] .. job_id .. ARGV[3]
if not is_unfinished(record) then
  redis.call('ZREM', KEYS[1], job_id)
  return { 'admitted', job_id }
end
local budget = tonumber(ARGV[1])
local needs = tonumber(redis.call('HGET', record, 'needs_bytes'))
if budget > 0 then
  if needs > budget then
    return { 'never', job_id, needs }
  end
  local others = -tonumber(redis.call('HGET', KEYS[2], job_id) or 0)
  for _, bytes in ipairs(redis.call('HVALS', KEYS[2])) do
    others = others + tonumber(bytes)
  end
  if others + needs > budget then
    return { 'wait' }
  end
end
redis.call('HSET', KEYS[2], job_id, string.format('%.0f', needs))
redis.call('HSET', record, 'admitted', 1)
redis.call('ZREM', KEYS[1], job_id)
return { 'admitted', job_id }
