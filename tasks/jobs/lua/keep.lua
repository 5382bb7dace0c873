-- Keep a job beyond its retention, or no longer.
-- KEYS[1] record hash
-- ARGV[1] ms from now, '' for as long as nobody says otherwise, 'no' to end it
-- Returns 1, or 0 when there is no such job.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if ARGV[1] == 'no' then
  redis.call('HDEL', KEYS[1], 'kept_until')
else
  redis.call('HSET', KEYS[1], 'kept_until', ARGV[1] == '' and 'forever' or string.format('%.0f', now() + ARGV[1]))
  redis.call('HSET', KEYS[1], 'format', FORMAT_OF_JOBS) -- workers of an earlier version would delete it
end
return 1
