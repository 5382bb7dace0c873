-- Ask for the right to render segment `index`: the one at the cursor, or a committed one that needs repair.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] handoffs hash    segment index -> msgpack
-- KEYS[4] queue    hash
-- ARGV[1] index, ARGV[2] ticket, ARGV[3] token, ARGV[4] lease ms, ARGV[5] worker
-- Returns {'run', fence, epoch, ms now, unit name, handoff of index - 1 or ''}
--      or {'committed', 1 when the next message is missing else 0}, {'refused', why}.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return { 'refused', 'there is no such job' }
end
local index, ticket = tonumber(ARGV[1]), tonumber(ARGV[2])
local cursor = tonumber(redis.call('HGET', KEYS[1], 'cursor'))
local name = index < cursor and 'repair:' .. ARGV[1] or 'segment'
local unit = read_unit(KEYS[2], name)
note_taken(KEYS[1], KEYS[2], KEYS[4], name, unit, ticket)
if not is_running(KEYS[1]) then
  return { 'refused', 'the job is ' .. state }
end
if index > cursor then
  return { 'refused', 'the cursor is at segment ' .. cursor }
end
if not unit and index == cursor - 1 and ticket == tonumber(redis.call('HGET', KEYS[1], 'ticket')) then
  local segments = tonumber(redis.call('HGET', KEYS[1], 'segments'))
  local missing = cursor < segments and tonumber(redis.call('HGET', KEYS[1], 'chained')) < cursor
  return { 'committed', missing and 1 or 0 }
end
if not unit then
  return { 'refused', index < cursor and 'the cursor is at segment ' .. cursor or 'it was not announced' }
end
local why = refusal(KEYS[2], name, unit, ticket, ARGV[3])
if why then
  return { 'refused', why }
end
local fence = grant(KEYS[1], KEYS[2], name, unit, ARGV[3], tonumber(ARGV[4]), ARGV[5])
if state == 'queued' then
  redis.call('HSET', KEYS[1], 'state', 'running', 'started_at', now())
end
local handoff = redis.call('HGET', KEYS[3], tostring(index - 1))
return { 'run', fence, tonumber(redis.call('HGET', KEYS[1], 'epoch')), now(), name, handoff or '' }
