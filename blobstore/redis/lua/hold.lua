-- Renew a stored blob and pin it provisionally.
-- KEYS[1] blob   hash
-- KEYS[2] pins   zset
-- KEYS[3] owner  zset, absent for a put without an owner
-- ARGV[1] hex, ARGV[2] ttl ms, ARGV[3] pin lease ms, ARGV[4] owner
-- Returns 1, or 0 when the blob is missing.
if not is_stored(KEYS[1]) then
  return 0
end
local time = now()
if KEYS[3] then
  pin(KEYS[2], KEYS[3], ARGV[1], ARGV[4], time + ARGV[3], time)
end
set_expiry(KEYS[1], KEYS[2], tonumber(ARGV[2]), time)
return 1
