-- Ask for takes of a committed segment. A job that has ended runs again until they are rendered.
-- KEYS[1] record   hash
-- KEYS[2] units    hash
-- KEYS[3] clips    hash
-- KEYS[4] takes    hash     see prelude_takes.lua
-- KEYS[5] active   zset     ids of unfinished jobs by creation, ms
-- KEYS[6] ended    zset     ids of ended jobs by their end, ms
-- KEYS[7] reserved hash     job id -> bytes of the blob store that are kept for it
-- ARGV[1] job id, ARGV[2] token of the request, ARGV[3] segment, ARGV[4] budget in bytes, 0 for no limit, ARGV[5] bytes that
-- the takes need together, then what is asked for of each, msgpack
-- Returns {'queued', number of the first}, {'missing'} when there is no such job, {'not rendered', segments that are},
-- {'ended', state} or {'full', bytes that are reserved for all jobs}.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
local first = earlier_reply(KEYS[1], ARGV[2])
if first then
  return { 'queued', first }
end
local refused = refusal_of_takes(KEYS[1], tonumber(ARGV[3]))
if refused then
  return refused
end
local full = reserve_more(KEYS[1], KEYS[7], ARGV[1], tonumber(ARGV[5]), tonumber(ARGV[4]))
if full then
  return { 'full', string.format('%.0f', full) }
end
need_version_of_takes(KEYS[1], KEYS[2])
first = tonumber(redis.call('HGET', KEYS[4], ARGV[3]) or 0) + 1
for at = 6, #ARGV do
  local number = redis.call('HINCRBY', KEYS[4], ARGV[3], 1)
  redis.call('HSET', KEYS[4], ARGV[3] .. ':' .. number, ARGV[at])
  write_unit(KEYS[2], 'take:' .. ARGV[3] .. ':' .. number, new_unit(tonumber(ARGV[3])))
end
wake(KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6], ARGV[1])
note_request(KEYS[1], ARGV[2], first)
return { 'queued', first }
