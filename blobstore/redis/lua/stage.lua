-- Begin an upload: whatever is left of it goes after a while, also when its client dies at once.
-- KEYS[1] staging  hash
-- ARGV[1] ms until an abandoned upload goes
redis.call('HSET', KEYS[1], 'begun', now())
redis.call('PEXPIRE', KEYS[1], ARGV[1])
