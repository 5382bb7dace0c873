-- Commit an owner's pins of some blobs, or of none if one is missing.
-- KEYS[1] owner zset, then for each blob: blob hash, pins zset
-- ARGV[1] owner, then each blob's hex in the same order
-- Returns the hexes of the missing blobs.
local missing = {}
for number = 2, #ARGV do
  if not is_stored(KEYS[2 * number - 2]) then
    table.insert(missing, ARGV[number])
  end
end
if #missing > 0 then
  return missing
end
local time = now()
for number = 2, #ARGV do
  local blob, pins = KEYS[2 * number - 2], KEYS[2 * number - 1]
  pin(pins, KEYS[1], ARGV[number], ARGV[1], 'inf', time)
  redis.call('PERSIST', blob)
end
return missing
