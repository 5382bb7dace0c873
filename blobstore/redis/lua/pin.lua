-- Commit an owner's pins of some blobs, or of none when one is absent.
-- KEYS[1] owner zset, then for each blob: its hash, its pins zset
-- ARGV[1] owner, then each blob's hex in the same order
-- Returns the hexes that are absent.
local absent = {}
for number = 2, #ARGV do
  if not is_there(KEYS[2 * number - 2]) then
    table.insert(absent, ARGV[number])
  end
end
if #absent > 0 then
  return absent
end
local time = now()
for number = 2, #ARGV do
  local blob, pins = KEYS[2 * number - 2], KEYS[2 * number - 1]
  pin(pins, KEYS[1], ARGV[number], ARGV[1], 'inf', time)
  redis.call('PERSIST', blob)
end
return absent
