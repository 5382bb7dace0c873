-- Pin some blobs for an owner, or none if one is missing.
-- KEYS[1] owner zset, then for each blob: blob hash, pins zset
-- ARGV[1] owner, ARGV[2] pin lease ms of provisional pins, 0 for committed ones, ARGV[3] ttl ms, then each blob's hex in
-- the same order
-- Returns the hexes of the missing blobs.
local missing = {}
for number = 4, #ARGV do
  if not is_stored(KEYS[2 * number - 6]) then
    table.insert(missing, ARGV[number])
  end
end
if #missing > 0 then
  return missing
end
local time, lease = now(), tonumber(ARGV[2])
for number = 4, #ARGV do
  local blob, pins = KEYS[2 * number - 6], KEYS[2 * number - 5]
  pin(pins, KEYS[1], ARGV[number], ARGV[1], lease > 0 and time + lease or 'inf', time)
  set_expiry(blob, pins, tonumber(ARGV[3]), time)
end
return missing
