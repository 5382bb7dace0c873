-- Free a blob that nobody pins, or a quarantined one, unless it is fresh; one that would never expire gets a life. So does
-- an upload whose client died when it had outlived its hash.
-- KEYS[1] blob, quarantine or staging  hash
-- KEYS[2] pins                         zset, left out for all but blobs
-- ARGV[1] ms of a life, counted from the last renewal, ARGV[2] ms of them that are spared, ARGV[3] 1 to change nothing,
-- ARGV[4] the major version that this client knows; a blob of a newer one stays as it is
-- Returns the bytes of what is freed, or nothing when it stays.
if not is_a('hash', KEYS[1]) or is_newer(KEYS[1], ARGV[4]) then
  return false
end
if KEYS[2] and not is_a('none', KEYS[2]) then
  -- Where a key of another type stands, nobody can say that there is no pin.
  if not is_a('zset', KEYS[2]) or redis.call('ZCOUNT', KEYS[2], '(' .. now(), '+inf') > 0 then
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
