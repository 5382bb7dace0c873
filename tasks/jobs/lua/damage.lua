-- Lay a claim down until segment `index`, whose blobs it misses, is repaired. A new repair raises the epoch.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- ARGV[1] unit name of the claim, ARGV[2] token, ARGV[3] index
-- Returns 1, or 0 when the token is not the claim's.
local unit = read_unit(KEYS[2], ARGV[1])
if not unit or unit.token ~= ARGV[2] then
  return 0
end
local repair = 'repair:' .. ARGV[3]
unit.after = repair
lay_down(KEYS[1], KEYS[2], ARGV[1], unit)
if redis.call('HEXISTS', KEYS[2], repair) == 0 then
  write_unit(KEYS[2], repair, new_unit(tonumber(ARGV[3])))
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
end
return 1
