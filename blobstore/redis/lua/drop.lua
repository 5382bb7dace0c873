-- Remove a blob, unless a newer major version wrote it.
-- KEYS[1] blob  hash
-- ARGV[1] the major version that this client knows
-- Returns 1, or 0 when the blob is newer and stays.
if is_newer(KEYS[1], ARGV[1]) then
  return 0
end
redis.call('UNLINK', KEYS[1])
return 1
