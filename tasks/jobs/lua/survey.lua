-- Take back expired leases of one job, close it if it was left open, and list its units that may have no message.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] clips   hash
-- KEYS[4] active  zset     ids of unfinished jobs
-- KEYS[5] ended   zset     ids of ended jobs by their end, ms
-- KEYS[6] pulse   hash     see pulse.lua
-- KEYS[7] takes   hash     see prelude_takes.lua
-- KEYS[8] spec    hash     'job' and one field per segment, msgpack
-- ARGV[1] job id, ARGV[2] how many claims on a unit may vanish, ARGV[3] ms that a message may wait in a sticky queue,
-- ARGV[4] ms after which an open job without work is closed
-- Returns nothing when the job has ended here, else a list of {unit, index, why, stamp, ticket, 'high' or ''}. why is
--   'expired'      its lease expired, or its message is gone or has waited too long in a sticky queue,
--   'unannounced'  no ticket was reserved for a message yet,
--   'possible'     the same, of a segment beside others that are in work or in the queue: not due before a worker is idle,
--   'unpublished'  a ticket was reserved, but perhaps the message was not sent, or
--   'waiting'      the message was sent and is not claimed yet.
-- This runs for every unfinished job every few seconds: a waiting job costs four reads.

-- Whether there is an outage, or one ended so recently that leases do not expire yet.
local function is_after_outage(pulse, time)
  local last, silence, quiet_from, quiet_ms = unpack(redis.call('HMGET', pulse, 'last', 'silence', 'quiet_from', 'quiet_ms'))
  if not last then
    return false
  end
  local gap, quiet = time - last, time - tonumber(quiet_from or time + 1)
  return gap > tonumber(silence) or gap < 0 or (quiet >= 0 and quiet < tonumber(quiet_ms))
end

-- Count the time that an open job has waited for segments, and close it once that is `longest` ms. Only time between two
-- rounds of a reconciler counts, at most `silence` ms: no outage, pause or jump of the clock closes a job.
local function close_if_left(record, extent, longest, silence)
  if not extent.open or extent.cursor < extent.segments or awaits_approval(extent) then
    return false
  end
  local time, waited, at = now(), unpack(redis.call('HMGET', record, 'waited_ms', 'waited_at'))
  local passed = time - tonumber(at or time)
  waited = tonumber(waited or 0) + (passed > 0 and passed <= silence and passed or 0)
  if waited < longest then
    redis.call('HSET', record, 'waited_ms', waited, 'waited_at', time)
    return false
  end
  close(record)
  extent.open = false
  return true
end

local needs = {}
local fields = redis.call('HMGET', KEYS[1], 'state', 'admitted', 'chained', 'format', 'cursor', 'segments', 'epoch', 'ticket',
  'fence')
if is_newer(fields[4]) then
  return refuse_newer()
end
if not is_running_state(fields[1]) or not fields[2] then
  return needs
end
for i, name in pairs({ [3] = 'chained', [5] = 'cursor', [6] = 'segments', [7] = 'epoch', [8] = 'ticket', [9] = 'fence' }) do
  local text = fields[i] or (i > 7 and '0') or ''  -- tickets and fences begin with their first use
  if #text > 15 or not string.match(text, '^%-?%d+$') then
    damaged('record: ' .. name)
  end
end
local chained, extent = tonumber(fields[3]), read_extent(KEYS[1])
local silence = tonumber(redis.call('HGET', KEYS[6], 'silence') or 0)
if close_if_left(KEYS[1], extent, tonumber(ARGV[4]), silence) and extent.segments == 0 then
  finish(KEYS[1], KEYS[2], KEYS[7], KEYS[4], KEYS[5], ARGV[1], 'cancelled', 'it was open for too long, and no segment was appended')
  return nil
end
local entries = redis.call('HGETALL', KEYS[2])
local found, names = {}, {}
for i = 1, #entries, 2 do
  names[#names + 1] = entries[i]
  found[entries[i]] = parse_unit(entries[i], entries[i + 1])
  if is_newer(found[entries[i]].format) then
    return refuse_newer()
  end
end
if extent.cursor < 0 or extent.cursor > extent.segments then
  damaged('record: cursor')
end
if found.segment and found.segment.index ~= extent.cursor then
  damaged('unit segment: index')
end
for name, unit in pairs(found) do
  if not is_claimed(unit) then
    local why = 'waiting'
    local waited = now() - unit.announced
    if unit.announced == 0 or (unit.sticky and (waited >= tonumber(ARGV[3]) or waited < 0)) then
      why = 'expired'
    elseif name == 'segment' and chained < unit.index then
      why = 'unpublished'
    end
    if not found[unit.after] then
      needs[#needs + 1] = { name, unit.index, why, unit.stamp, unit.ticket, unit.priority or '' }
    end
  elseif not is_live(unit, now()) and not is_after_outage(KEYS[6], now()) then
    if unit.engine then
      unit.vanished = unit.vanished or {}
      table.insert(unit.vanished,
        { node = unit.node or '', worker = unit.worker, ticket = unit.ticket, token = unit.token, at = now() })
      tell_attempt(KEYS[1], name, unit, 'vanished')
      if #unit.vanished >= tonumber(ARGV[2]) then
        local reason = 'its workers vanished ' .. #unit.vanished .. ' times, last ' .. unit.worker
        fail(KEYS[1], KEYS[2], KEYS[7], KEYS[4], KEYS[5], ARGV[1], name, unit, reason)
        if not is_unfinished(KEYS[1]) then
          return nil
        end
        unit = nil
      end
    end
    if unit then
      release(KEYS[1], KEYS[2], name, unit)
      needs[#needs + 1] = { name, unit.index, 'expired', unit.stamp, unit.ticket, unit.priority or '' }
    end
  end
end
local free = startable_segments(KEYS[1], KEYS[2], KEYS[8], extent)[1]
if free then
  local why = has_segment_unit(names) and 'possible' or 'unannounced'
  needs[#needs + 1] = { segment_unit(KEYS[1], free), free, why, 0, 0, '' }
end
if extent.cursor == extent.segments and not next(found) then
  for index = 0, extent.segments - 1 do
    if redis.call('HEXISTS', KEYS[3], index) == 0 then  -- its record was lost
      write_unit(KEYS[2], 'clip:' .. index, new_unit(index))
      needs[#needs + 1] = { 'clip:' .. index, index, 'unannounced', 0, 0, '' }
    end
  end
end
if not found['film'] and is_film_due(extent, redis.call('HLEN', KEYS[3])) then
  needs[#needs + 1] = { 'film', -1, 'unannounced', 0, 0, '' }
end
return needs
