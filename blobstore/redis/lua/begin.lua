-- Begin an upload unless the blob is stored. An abandoned upload expires.
-- KEYS[1] blob     hash
-- KEYS[2] staging  hash
-- ARGV[1] ms until an abandoned upload expires
-- Returns the manifest of the stored blob, or nothing when the upload has begun.
local manifest = redis.call('HGET', KEYS[1], 'manifest')
if manifest then
  -- An earlier run, whose reply was lost, may have begun the upload.
  redis.call('UNLINK', KEYS[2])
else
  redis.call('HSET', KEYS[2], 'begun', now())
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
return manifest
