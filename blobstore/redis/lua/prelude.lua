-- Prepended to every script of this folder.
--
-- Keys, all under the store's prefix; <hex> is the hash of a blob:
--   blob:<hex>        hash  chunk fields '0', '1', ... and 'manifest' (msgpack), without which the blob is missing
--   staging:<uuid>    hash  'begun' (ms) and chunk fields of an unfinished upload
--   quarantine:<hex>  hash  a blob that did not match its hash, for a day
--   pins:<hex>        zset  owner -> ms when the pin expires, 'inf' for a committed one
--   owner:<owner>     zset  <hex> -> the same number
-- A zset of pins expires with the last of its pins.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The time when the last pin in `key` expires: ms as text, 'inf', or nil without pins.
local function last_pin(key)
  return redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
end

-- Set the expiry of a zset of pins to that of its last pin.
local function set_pins_expiry(key)
  local last = last_pin(key)
  if last == 'inf' then
    redis.call('PERSIST', key)
  elseif last then
    redis.call('PEXPIREAT', key, last)
  end
end

local function add_pin(key, member, expires, time)
  -- On a full server a script may write if its first write needs no memory.
  redis.call('ZREMRANGEBYSCORE', key, '-inf', time)
  redis.call('ZADD', key, 'GT', expires, member)
  set_pins_expiry(key)
end

-- Pin a blob for an owner on both sides; `expires` in ms, or 'inf'.
local function pin(pins, owner_key, hex, owner, expires, time)
  add_pin(pins, owner, expires, time)
  add_pin(owner_key, hex, expires, time)
end

-- Set the expiry of a blob to that of its last pin, but at least `ttl` ms from now.
local function set_expiry(blob, pins, ttl, time)
  local last = last_pin(pins)
  if last == 'inf' then
    redis.call('PERSIST', blob)
  else
    redis.call('PEXPIREAT', blob, math.max(time + ttl, tonumber(last or 0)))
  end
end

local function is_stored(blob)
  return redis.call('HEXISTS', blob, 'manifest') == 1
end

-- Whether `key` has a type: 'hash', 'zset', or 'none' for a missing key.
local function has_type(name, key)
  return redis.call('TYPE', key).ok == name
end

-- Whether a newer major version than `major` wrote the blob. False for a damaged manifest.
local function is_newer(blob, major)
  local manifest = has_type('hash', blob) and redis.call('HGET', blob, 'manifest')
  if not manifest then
    return false
  end
  local readable, fields = pcall(cmsgpack.unpack, manifest)
  local version = readable and type(fields) == 'table' and type(fields.format) == 'string' and fields.format
  local stored = version and version:match('^(%d+)%.%d+$')
  return stored and tonumber(stored) > tonumber(major)
end

-- Bytes of all chunks stored in a hash. The size in a manifest can be wrong.
local function bytes_in(key)
  local bytes = 0
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if field ~= 'manifest' then
      bytes = bytes + redis.call('HSTRLEN', key, field)
    end
  end
  return bytes
end
