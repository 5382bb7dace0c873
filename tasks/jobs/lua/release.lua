-- Release a claim whose work did not succeed. With a reason it counts as a failed attempt, and the last one fails the job.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] active  zset     ids of unfinished jobs
-- KEYS[4] ended   zset     ids of ended jobs by their end, ms
-- KEYS[5] takes   hash
-- ARGV[1] job id, ARGV[2] unit name, ARGV[3] token, ARGV[4] reason or '' (no attempt), ARGV[5] attempts allowed
-- Returns {'retry', ticket of its message}, {'failed', 0} or {'refused', 0}.
local unit = read_unit(KEYS[2], ARGV[2])
if not unit or unit.token ~= ARGV[3] then
  return { 'refused', 0 }
end
local allowed = tonumber(ARGV[5])
local takes, active, ended = KEYS[5], KEYS[3], KEYS[4]
if ARGV[4] ~= ''
  and count_attempt(KEYS[1], KEYS[2], takes, active, ended, ARGV[1], ARGV[2], unit, unit, 'failed', ARGV[4],
    allowed) then
  return { 'failed', 0 }
end
release(KEYS[1], KEYS[2], ARGV[2], unit)
return { 'retry', unit.ticket }
