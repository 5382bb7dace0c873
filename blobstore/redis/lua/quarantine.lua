-- Quarantine a corrupt blob, so that a put uploads it again. Its pins stay.
-- KEYS[1] blob        hash
-- KEYS[2] quarantine  hash
-- ARGV[1] manifest that was read with the corrupt bytes, ARGV[2] ms until the quarantined blob expires
-- Returns 1, or 0 when the blob was dropped or replaced since.
if redis.call('HGET', KEYS[1], 'manifest') ~= ARGV[1] then
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
