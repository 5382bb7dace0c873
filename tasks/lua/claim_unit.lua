-- Ask for the right to rebuild a clip or to assemble the film.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] queue   hash
-- ARGV[1] unit name, ARGV[2] ticket, ARGV[3] token, ARGV[4] lease ms, ARGV[5] worker
-- Returns {'run', fence, epoch, ms now, ''} or {'refused', why}.
local unit = read_unit(KEYS[2], ARGV[1])
local ticket = tonumber(ARGV[2])
if unit and ticket == unit.ticket then
  local claimed = tonumber(redis.call('HGET', KEYS[3], 'claimed') or 0)
  redis.call('HSET', KEYS[3], 'claimed', math.max(claimed, unit.stamp))
end
if not is_running(KEYS[1]) then
  return { 'refused', 'the job is ' .. (redis.call('HGET', KEYS[1], 'state') or 'unknown') }
end
if not unit then
  return { 'refused', 'it is done' }
end
if ticket < unit.ticket then
  return { 'refused', 'a newer message has replaced this one' }
end
if is_claimed(unit) then
  return { 'refused', ARGV[1] .. ' is held by ' .. unit.worker }
end
local fence = grant(KEYS[1], KEYS[2], ARGV[1], unit, ARGV[3], tonumber(ARGV[4]), ARGV[5])
return { 'run', fence, tonumber(redis.call('HGET', KEYS[1], 'epoch')), now(), '' }
