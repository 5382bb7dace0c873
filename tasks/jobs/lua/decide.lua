-- Decide the length of a segment with `frames: auto`, before the holder of its claim renders it. What was decided stays.
-- KEYS[1] units hash
-- KEYS[2] spec  hash    'job' and one field per segment, msgpack
-- ARGV[1] unit name, ARGV[2] token of its claim, ARGV[3] segment index, ARGV[4] the segment's spec as the holder has read
-- it, ARGV[5] the same with a length, both msgpack
-- Returns the segment's spec from now on, or '' when the claim is lost.
local unit = read_unit(KEYS[1], ARGV[1])
if not unit or unit.token ~= ARGV[2] or unit.index ~= tonumber(ARGV[3]) then
  return ''
end
if redis.call('HGET', KEYS[2], ARGV[3]) == ARGV[4] then
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
end
return redis.call('HGET', KEYS[2], ARGV[3])
