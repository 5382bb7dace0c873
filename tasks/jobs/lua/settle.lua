-- Reduce the reservation of an ended job to the size of its blobs, unless it has changed since they were counted. The room
-- of pieces for live players that were not stored is given up.
-- KEYS[1] record   hash
-- KEYS[2] reserved hash    job id -> bytes
-- ARGV[1] job id, ARGV[2] bytes of its blobs, ARGV[3] bytes that were reserved when they were counted, '' for none
if is_newer_record(KEYS[1]) or redis.call('EXISTS', KEYS[1]) == 0 or is_unfinished(KEYS[1]) then
  return 1
end
local held = redis.call('HGET', KEYS[2], ARGV[1])
if (held or '') ~= ARGV[3] then
  return 1
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.find(field, '^piece:') then
    give_up_room(KEYS[1], field)
  end
end
redis.call('HSET', KEYS[1], 'settled', 1)
if held then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
return 1
