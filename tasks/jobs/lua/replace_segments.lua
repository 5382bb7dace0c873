-- Replace the specs of segments that no worker has claimed or committed: all of them or none. To repeat it changes nothing.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] spec    hash    'job' and one field per segment, msgpack
-- ARGV: for each segment its index, its spec as the caller has read it, and its new spec, both msgpack
-- Returns {'replaced', -1}, {'missing', -1} without such a job, or what prevents it and at which segment: 'absent',
-- 'committed', 'claimed' or 'changed' (its spec is not what the caller has read).
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return { 'missing', -1 }
end
local extent, running = read_extent(KEYS[1]), read_unit(KEYS[2], 'segment')
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
  elseif index < extent.cursor then
    return { 'committed', index }
  elseif is_claimed(running) and running.index == index then
    return { 'claimed', index }
  elseif redis.call('HGET', KEYS[3], ARGV[at]) ~= ARGV[at + 1] then
    return { 'changed', index }
  end
end
for at = 1, #ARGV, 3 do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 2])
  note_format(KEYS[1], ARGV[at + 2])
  tell(KEYS[1], 'replaced', { segment = tonumber(ARGV[at]) })
end
return { 'replaced', -1 }
