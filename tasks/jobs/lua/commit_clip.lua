-- Make a clip real, and announce the film when it was the last one. A clip that shows other takes than those chosen is
-- refused, and due again.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] clips   hash     segment index -> msgpack
-- KEYS[4] queue   hash     'stamp': messages announced, of the films
-- KEYS[5] shared  list     the messages that wait in the queue of films
-- KEYS[6] high    list     the same with high priority
-- KEYS[7] handoffs hash
-- KEYS[8] takes   hash
-- ARGV[1] index, ARGV[2] token, ARGV[3] clip
-- Returns {1 when this call made it real else 0}, with the reply of announce.lua after it when the film is due. A caller
-- that finds the same bytes there (the winner after a lost reply, or a late holder) changes nothing.
local name = 'clip:' .. ARGV[1]
local unit = read_unit(KEYS[2], name)
local mine = unit and unit.token == ARGV[2]
if mine and not shows(ARGV[3], clip_shows(KEYS[2], KEYS[7], KEYS[8], tonumber(ARGV[1]))) then
  write_unit(KEYS[2], name, new_unit(tonumber(ARGV[1])))
  return { 0 }
elseif mine then
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  redis.call('HDEL', KEYS[2], name)
  redis.call('HDEL', KEYS[1], 'winner:' .. ARGV[1]) -- its holder knows that its segment is committed
  tell(KEYS[1], 'clip', { segment = tonumber(ARGV[1]) })
elseif unit or redis.call('HGET', KEYS[3], ARGV[1]) ~= ARGV[3] then
  return { 0 }
end
local accepted = mine and 1 or 0
local is_due = is_film_due(read_extent(KEYS[1]), redis.call('HLEN', KEYS[3]))
if not is_due or not is_published(KEYS[1]) or redis.call('HEXISTS', KEYS[2], 'film') == 1 then
  return { accepted }
end
return { accepted, unpack(announce(KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], 'film', new_unit(-1), false)) }
