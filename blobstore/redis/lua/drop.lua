-- Remove a blob, unless a newer major version wrote it.
-- KEYS[1] blob  hash
-- ARGV[1] major version of this client
-- Returns 1, or 0 when a newer version wrote the blob.
if is_newer(KEYS[1], ARGV[1]) then
  return 0
end
redis.call('UNLINK', KEYS[1])
return 1
