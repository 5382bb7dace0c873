-- Move a corrupt blob aside, so that a put uploads it again; its pins stay.
-- KEYS[1] blob        hash
-- KEYS[2] quarantine  hash
-- ARGV[1] the manifest that was read with the corrupt bytes, ARGV[2] ms until the quarantined bytes go
-- Returns 1, or 0 when that upload is not there any more.
if redis.call('HGET', KEYS[1], 'manifest') ~= ARGV[1] then
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
