-- Free an unpinned or quarantined blob, unless it was renewed recently. A hash without an expiry gets one instead; for an
-- abandoned upload nothing else happens.
-- KEYS[1] blob, quarantine or staging  hash
-- KEYS[2] pins                         zset, only for blobs
-- ARGV[1] ms from a renewal until the hash expires, ARGV[2] ms of grace after a renewal, ARGV[3] 1 for a dry run,
-- ARGV[4] major version of this client; a blob of a newer one stays
-- Returns the bytes that were freed, or nothing when the hash stays.
if not has_type('hash', KEYS[1]) or is_newer(KEYS[1], ARGV[4]) then
  return false
end
if KEYS[2] and not has_type('none', KEYS[2]) then
  -- With a key of another type in their place, the pins are unknown.
  if not has_type('zset', KEYS[2]) or redis.call('ZCOUNT', KEYS[2], '(' .. now(), '+inf') > 0 then
    return false
  end
end
local changes = ARGV[3] ~= '1'
local left = redis.call('PTTL', KEYS[1])
if left == -1 then
  if changes then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
  end
  return false
end
if ARGV[1] - left < tonumber(ARGV[2]) then
  return false
end
local bytes = bytes_in(KEYS[1])
if changes then
  redis.call('UNLINK', KEYS[1])
end
return bytes
