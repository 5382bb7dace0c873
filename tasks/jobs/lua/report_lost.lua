-- Report that the holder of a claim cannot read its input. A film waits until its lost clips are made again, any other
-- unit until what it read from, a segment or one of its takes, is repaired. New repairs raise the epoch.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] clips   hash     segment index -> msgpack
-- ARGV[1] unit name of the claim, ARGV[2] token, then for a film the index of each lost clip, else the lost segment and the
-- unit that renders it again
-- Returns 1, or 0 when the token is not the claim's.
local unit = read_unit(KEYS[2], ARGV[1])
if not unit or unit.token ~= ARGV[2] then
  return 0
end
if ARGV[1] == 'film' then
  redis.call('HDEL', KEYS[2], 'film')
  for number = 3, #ARGV do
    redis.call('HDEL', KEYS[3], ARGV[number])
    write_unit(KEYS[2], 'clip:' .. ARGV[number], new_unit(tonumber(ARGV[number])))
  end
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  return 1
end
local repair = ARGV[4]
unit.after = repair
release(KEYS[1], KEYS[2], ARGV[1], unit)
if redis.call('HEXISTS', KEYS[2], repair) == 0 then
  write_unit(KEYS[2], repair, new_unit(tonumber(ARGV[3])))
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
end
return 1
