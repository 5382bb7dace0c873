-- Ask for the right to rebuild a clip or to assemble the film.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] queue   hash
-- ARGV[1] unit name, ARGV[2] ticket, ARGV[3] token, ARGV[4] lease ms, ARGV[5] worker
-- Returns {'run', fence, epoch, ms now, unit name, ''} or {'refused', why}.
local name, ticket = ARGV[1], tonumber(ARGV[2])
local unit = read_unit(KEYS[2], name)
note_taken(KEYS[1], KEYS[2], KEYS[3], name, unit, ticket)
if not is_running(KEYS[1]) then
  return { 'refused', 'the job is ' .. (redis.call('HGET', KEYS[1], 'state') or 'unknown') }
end
if not unit then
  return { 'refused', 'it is done' }
end
local why = refusal(KEYS[2], name, unit, ticket, ARGV[3])
if why then
  return { 'refused', why }
end
local fence = grant(KEYS[1], KEYS[2], name, unit, ARGV[3], tonumber(ARGV[4]), ARGV[5])
return { 'run', fence, tonumber(redis.call('HGET', KEYS[1], 'epoch')), now(), name, '' }
