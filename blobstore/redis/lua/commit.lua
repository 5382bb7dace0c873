-- Make an upload a blob unless the blob is stored already; then renew and pin it like hold.lua.
-- KEYS[1] staging  hash
-- KEYS[2] blob     hash
-- KEYS[3] pins     zset
-- KEYS[4] owner    zset, absent for a put without an owner
-- ARGV[1] hex, ARGV[2] ttl ms, ARGV[3] pin lease ms, ARGV[4] owner,
-- ARGV[5] manifest, ARGV[6] size in bytes, ARGV[7] bytes per chunk
-- Returns 1, or 0 when the upload is not complete.
if not is_stored(KEYS[2]) then
  local size, chunk_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
  local chunks = math.ceil(size / chunk_bytes)
  for index = 0, chunks - 1 do
    if redis.call('HSTRLEN', KEYS[1], index) ~= math.min(chunk_bytes, size - index * chunk_bytes) then
      return 0
    end
  end
  redis.call('HSET', KEYS[1], 'manifest', ARGV[5])
  redis.call('HDEL', KEYS[1], 'begun')
  redis.call('RENAME', KEYS[1], KEYS[2])
end
redis.call('UNLINK', KEYS[1])
local time = now()
if KEYS[4] then
  pin(KEYS[3], KEYS[4], ARGV[1], ARGV[4], time + ARGV[3], time)
end
set_expiry(KEYS[2], KEYS[3], tonumber(ARGV[2]), time)
return 1
