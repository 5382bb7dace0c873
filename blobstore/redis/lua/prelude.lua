-- Put before every script of this folder.
--
-- Keys, all under the store's prefix; <hex> is the hash of a blob:
--   blob:<hex>        hash  chunk fields '0', '1', ... and 'manifest' (msgpack), without which there is no blob
--   staging:<uuid>    hash  'begun' (ms) and chunk fields of an upload that is under way
--   quarantine:<hex>  hash  a blob that did not match its hash, kept for a day
--   pins:<hex>        zset  owner -> ms when the pin expires, 'inf' for a committed one
--   owner:<owner>     zset  <hex> -> the same number
-- A zset of pins expires in Redis with the last of its pins.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- When the last pin in `key` expires: ms as text, 'inf', or nil when there is none.
local function last_pin(key)
  return redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
end

-- Let a zset of pins live as long as the last of them.
local function settle_pins(key)
  local last = last_pin(key)
  if last == 'inf' then
    redis.call('PERSIST', key)
  elseif last then
    redis.call('PEXPIREAT', key, last)
  end
end

local function add_pin(key, member, expires, time)
  -- Coming first, a write that needs no memory lets the others pass on a full server.
  redis.call('ZREMRANGEBYSCORE', key, '-inf', time)
  redis.call('ZADD', key, 'GT', expires, member)
  settle_pins(key)
end

-- Pin a blob for an owner on both sides; `expires` in ms, or 'inf'.
local function pin(pins, owner_key, hex, owner, expires, time)
  add_pin(pins, owner, expires, time)
  add_pin(owner_key, hex, expires, time)
end

-- Let a blob live as long as its pins, and `ttl` ms from now at least.
local function settle(blob, pins, ttl, time)
  local last = last_pin(pins)
  if last == 'inf' then
    redis.call('PERSIST', blob)
  else
    redis.call('PEXPIREAT', blob, math.max(time + ttl, tonumber(last or 0)))
  end
end

local function is_there(blob)
  return redis.call('HEXISTS', blob, 'manifest') == 1
end

-- Whether `key` is of a kind: 'hash', 'zset', or 'none' when there is no such key.
local function is_a(kind, key)
  return redis.call('TYPE', key).ok == kind
end

-- Whether a newer major version than `major` wrote the blob. A damaged manifest counts as ours.
local function is_newer(blob, major)
  local manifest = is_a('hash', blob) and redis.call('HGET', blob, 'manifest')
  if not manifest then
    return false
  end
  local readable, fields = pcall(cmsgpack.unpack, manifest)
  local version = readable and type(fields) == 'table' and type(fields.format) == 'string' and fields.format
  local stored = version and version:match('^(%d+)%.%d+$')
  return stored and tonumber(stored) > tonumber(major)
end

-- Bytes of all chunks in a hash, as they are stored: a manifest can lie.
local function bytes_in(key)
  local bytes = 0
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if field ~= 'manifest' then
      bytes = bytes + redis.call('HSTRLEN', key, field)
    end
  end
  return bytes
end
