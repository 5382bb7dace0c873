-- What one job needs: take back expired leases, and report the units that may have lost their message.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] clips   hash
-- KEYS[4] active  zset     ids of unfinished jobs
-- KEYS[5] ended   zset     ids of ended jobs by their end, ms
-- KEYS[6] pulse   hash     see pulse.lua
-- ARGV[1] job id, ARGV[2] attempts allowed, ARGV[3] ms that a message may wait in a sticky queue
-- Returns a list of {unit, index, why, stamp, ticket}: why is 'expired' (its message is known to be gone, or has waited
-- in a sticky queue long enough), 'unannounced' (no message was ever reserved), 'unpublished' (reserved, perhaps not
-- sent) or 'waiting' (sent and not claimed yet).
-- This runs for every unfinished job every few seconds: a job that only waits costs two reads.
local function is_quiet(pulse, time)
  local last, silence, quiet_until = unpack(redis.call('HMGET', pulse, 'last', 'silence', 'quiet_until'))
  return last and (time - last > tonumber(silence) or time < tonumber(quiet_until or 0))
end

local needs = {}
local fields = redis.call('HMGET', KEYS[1], 'state', 'admitted', 'cursor', 'segments', 'chained', 'format')
if is_newer(fields[6]) then
  return refuse_newer()
end
if not is_running_state(fields[1]) or not fields[2] then
  return needs
end
local cursor, segments, chained = tonumber(fields[3]), tonumber(fields[4]), tonumber(fields[5])
local entries = redis.call('HGETALL', KEYS[2])
local found = {}
for i = 1, #entries, 2 do
  found[entries[i]] = cjson.decode(entries[i + 1])
  if is_newer(found[entries[i]].format) then
    return refuse_newer()
  end
end
for name, unit in pairs(found) do
  if not is_claimed(unit) then
    local why = 'waiting'
    if unit.announced == 0 or (unit.sticky and now() - unit.announced >= tonumber(ARGV[3])) then
      why = 'expired'
    elseif name == 'segment' and chained < unit.index then
      why = 'unpublished'
    end
    if not found[unit.after] then
      needs[#needs + 1] = { name, unit.index, why, unit.stamp, unit.ticket }
    end
  elseif unit.expires <= now() and not is_quiet(KEYS[6], now()) then
    if unit.engine then
      unit.attempts = unit.attempts + 1
      if unit.attempts >= tonumber(ARGV[2]) then
        finish(KEYS[1], KEYS[2], KEYS[4], KEYS[5], ARGV[1], 'failed', 'the worker died on every attempt, last ' .. unit.worker)
        redis.call('HSET', KEYS[1], 'failed_segment', unit.index, 'attempts', unit.attempts)
        return {}
      end
    end
    release(KEYS[1], KEYS[2], name, unit)
    needs[#needs + 1] = { name, unit.index, 'expired', unit.stamp, unit.ticket }
  end
end
if cursor < segments and not found['segment'] then
  needs[#needs + 1] = { 'segment', cursor, 'unannounced', 0, 0 }
end
if cursor == segments and not found['film'] and redis.call('HLEN', KEYS[3]) == segments then
  needs[#needs + 1] = { 'film', -1, 'unannounced', 0, 0 }
end
return needs
