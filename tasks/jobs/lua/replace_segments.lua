-- Replace the specs of segments that no worker has claimed or committed: all of them or none. To repeat it changes nothing.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] spec    hash    'job' and one field per segment, msgpack
-- ARGV: for each segment its index, its spec as the caller has read it, and its new spec, both msgpack
-- Returns {'replaced', -1}, {'missing', -1} without such a job, or what prevents it and at which segment: 'absent',
-- 'committed', 'claimed', 'changed' (its spec is not what the caller has read), or 'begun' when its place in the film is
-- that of a later segment, too, which is committed or claimed.

-- Whether two specs of a segment differ in what decides where later ones are, and where parts begin.
local function moves_later_ones(before, after)
  before, after = cmsgpack.unpack(before), cmsgpack.unpack(after)
  for _, field in ipairs({ 'frames', 'auto_frames', 'overlap', 'transition', 'fade' }) do
    if before[field] ~= after[field] then
      return true
    end
  end
  return false
end

-- The last segment that is committed or claimed, -1 if there is none.
local function last_begun(record, units, cursor)
  local last = cursor - 1
  for _, run in ipairs(read_ahead(record)) do
    last = run[2] > run[1] and run[2] - 1 or last
  end
  for _, name in ipairs(redis.call('HKEYS', units)) do
    local unit = string.find(name, '^segment') and read_unit(units, name)
    last = unit and is_claimed(unit) and math.max(last, unit.index) or last
  end
  return last
end

if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return { 'missing', -1 }
end
local extent = read_extent(KEYS[1])
local begun = last_begun(KEYS[1], KEYS[2], extent.cursor)
local is_same = true
for at = 1, #ARGV, 3 do
  is_same = is_same and redis.call('HGET', KEYS[3], ARGV[at]) == ARGV[at + 2]
end
if is_same then
  return { 'replaced', -1 }
end
for at = 1, #ARGV, 3 do
  local index = tonumber(ARGV[at])
  if index < 0 or index >= extent.segments then
    return { 'absent', index }
  elseif is_committed(KEYS[1], index) then
    return { 'committed', index }
  end
  local running = read_unit(KEYS[2], segment_unit(KEYS[1], index))
  if is_claimed(running) and running.index == index then
    return { 'claimed', index }
  elseif redis.call('HGET', KEYS[3], ARGV[at]) ~= ARGV[at + 1] then
    return { 'changed', index }
  elseif index < begun and moves_later_ones(ARGV[at + 1], ARGV[at + 2]) then
    return { 'begun', begun }
  end
end
for at = 1, #ARGV, 3 do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 2])
  close_parts(KEYS[1], KEYS[2], tonumber(ARGV[at]), ARGV[at + 2])
  note_format(KEYS[1], ARGV[at + 2])
  tell(KEYS[1], 'replaced', { segment = tonumber(ARGV[at]) })
end
return { 'replaced', -1 }
