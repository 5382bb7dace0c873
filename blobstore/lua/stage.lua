-- Take one chunk of an upload, if it arrived as it was sent.
-- KEYS[1] staging  hash
-- ARGV[1] chunk number, ARGV[2] its SHA-1 in hex, ARGV[3] ms until an abandoned upload goes, ARGV[4] the chunk
-- Returns 1, or 0 when the chunk does not match.
if redis.sha1hex(ARGV[4]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
