-- Add segments to the end of a job, and reserve room for them. A job that is done continues: its film stays in the record
-- until the next one is committed. A film that is being joined is given up.
-- KEYS[1] record     hash
-- KEYS[2] units      hash
-- KEYS[3] spec       hash    'job' and one field per segment, msgpack
-- KEYS[4] clips      hash
-- KEYS[5] active     zset    ids of unfinished jobs by creation, ms
-- KEYS[6] ended      zset    ids of ended jobs by their end, ms
-- KEYS[7] waiting    zset    ids of jobs that wait for room by arrival, us
-- KEYS[8] submitting set     ids of jobs whose blobs are not pinned yet
-- KEYS[9] reserved   hash    job id -> bytes of the blob store that are kept for it
-- ARGV[1] job id, ARGV[2] and ARGV[3] prefix and suffix of the keys of records, ARGV[4] token of the request, ARGV[5] budget
-- in bytes, 0 for no limit, ARGV[6] bytes that these segments may need, ARGV[7] the most segments of a job, ARGV[8] index
-- that the first one must get, -1 for any; then the segments, msgpack
-- Returns {'appended', index of the first}, {'missing'} without such a job, {'other', index of the first} when other segments
-- were appended with this token, {'ended', state} when it failed or was cancelled, {'long', number of its segments},
-- {'moved', the same} when the first one would get another index, or {'full', bytes that it needs in addition, bytes that
-- are free}.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
local state, needs, admitted = unpack(redis.call('HMGET', KEYS[1], 'state', 'needs_bytes', 'admitted'))
if not state then
  return { 'missing' }
end
local digest = redis.sha1hex(table.concat(ARGV, ' ', 9))
local known, is_other = earlier_reply(KEYS[1], ARGV[4], digest)
if known then
  return { is_other and 'other' or 'appended', tonumber(known) }
end
if state ~= 'done' and not is_unfinished(KEYS[1]) then
  return { 'ended', state }
end
local extent, added = read_extent(KEYS[1]), #ARGV - 8
local first = extent.segments
if first + added > tonumber(ARGV[7]) then
  return { 'long', first }
end
if tonumber(ARGV[8]) >= 0 and tonumber(ARGV[8]) ~= first then
  return { 'moved', first }
end

local budget, wanted = tonumber(ARGV[5]), tonumber(needs) + tonumber(ARGV[6])
local held, reserved = tonumber(redis.call('HGET', KEYS[9], ARGV[1]) or 0), reserved_bytes(KEYS[9])
local is_admitted = admitted or state == 'done'
local fits = reserved - held + wanted <= budget
if not is_admitted then
  fits = has_room(budget, KEYS[9], KEYS[7], KEYS[8], ARGV[2], ARGV[3], ARGV[1], held, wanted)
end
if budget > 0 and not fits then
  return { 'full', wanted - held, math.max(0, budget - reserved) }
end

if state == 'done' then
  revive(KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], ARGV[1])
  redis.call('HSET', KEYS[1], 'admitted', 1)
end
redis.call('HSET', KEYS[1], 'needs_bytes', string.format('%.0f', wanted), 'segments', first + added)
if is_admitted then
  redis.call('HSET', KEYS[9], ARGV[1], string.format('%.0f', wanted))
end
for number = 1, added do
  redis.call('HSET', KEYS[3], first + number - 1, ARGV[8 + number])
  note_format(KEYS[1], ARGV[8 + number])
end
local is_rendered = extent.cursor == first and redis.call('HEXISTS', KEYS[4], first - 1) == 1
if not extent.open and is_rendered then  -- players were shown where the film ends
  redis.call('HINCRBY', KEYS[1], 'grown', 1)
end
redis.call('HDEL', KEYS[1], 'waited_ms', 'waited_at')
outdate_film(KEYS[1], KEYS[2])
note_request(KEYS[1], ARGV[4], first, digest)
tell(KEYS[1], 'appended', { first = first, segments = first + added })
return { 'appended', first }
