-- Commit the film, in place of an older one, and finish the job as done unless takes are to be rendered.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] active  zset     ids of unfinished jobs
-- KEYS[4] ended   zset     ids of ended jobs by their end, ms
-- KEYS[5] takes   hash
-- ARGV[1] job id, ARGV[2] token, ARGV[3] film
-- Returns 1, or 0 if the token is not the claim's. A repeated call with the token that committed returns 1.
if redis.call('HGET', KEYS[1], 'winner') == 'film ' .. ARGV[2] then
  return 1
end
local unit = read_unit(KEYS[2], 'film')
if not unit or unit.token ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'film', ARGV[3], 'winner', 'film ' .. ARGV[2])
redis.call('HDEL', KEYS[1], 'outdated')
redis.call('HDEL', KEYS[2], 'film')
finish_if_done(KEYS[1], KEYS[2], KEYS[5], KEYS[3], KEYS[4], ARGV[1])
return 1
