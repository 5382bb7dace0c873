-- Record that a reconciler reaches this server. A gap between two pulses is an outage, in which holders could not renew
-- their leases, so no lease expires until they have had time to. A clock that was set forward or back looks the same. The
-- first pulse ever does not follow an outage.
-- Ended jobs do not grow older, or younger, by a clock that was set: the times of their ends, and those until which
-- jobs are kept, are moved with it.
-- KEYS[1] pulse hash       'last': ms, newest pulse; 'silence': ms, a longer gap is an outage;
--                          'quiet_from', 'quiet_ms': no lease expires in this period; 'budget': bytes of blobs, 0 for
--                          no limit; 'unseen': ms, the last gap that nobody saw: it may be a clock set forward
-- KEYS[2] ended zset       ids of ended jobs by their end, ms
-- KEYS[3] jobs  zset       job id by creation, ms; their record hashes: 'kept_until'
-- ARGV[1] silence, ARGV[2] ms to renew leases after a gap, ARGV[3] budget, ARGV[4] 1 when the caller knows of an outage
-- that has just ended, else 0, ARGV[5] ms since the caller's pulse before this one by its own clock, '' for its first,
-- ARGV[6] and ARGV[7] prefix and suffix of the keys of records
-- Returns 1 after a gap, else 0.

-- What differs by less, such as a call that waited in an outage, is no clock that was set.
local LEAP_MS = 60000

-- How far the clock was set, in ms: back, or forward by what the caller did not count. Without a caller that was there,
-- a gap is time that passed. If that was wrong, the clock is set back later, and then nothing is moved.
local function leap_in(gap, counted, unseen)
  if gap < -LEAP_MS then
    local undone = math.min(unseen, -gap)
    return gap + undone, unseen - undone
  end
  if gap <= LEAP_MS then
    return 0, unseen
  end
  if not counted then
    return 0, gap
  end
  return gap > counted + LEAP_MS and gap - counted or 0, unseen
end

local function move_ends(ended, jobs, prefix, suffix, ms)
  local found = redis.call('ZRANGE', ended, 0, -1, 'WITHSCORES')
  for at = 1, #found, 2 do
    redis.call('ZADD', ended, string.format('%.0f', found[at + 1] + ms), found[at])
  end
  for _, job_id in ipairs(redis.call('ZRANGE', jobs, 0, -1)) do
    local record = prefix .. job_id .. suffix
    local fields = redis.pcall('HMGET', record, 'format', 'kept_until')
    local kept = not fields.err and not is_newer(fields[1]) and tonumber(fields[2])
    if kept then
      redis.call('HSET', record, 'kept_until', string.format('%.0f', kept + ms))
    end
  end
end

local time = now()
local last, unseen = unpack(redis.call('HMGET', KEYS[1], 'last', 'unseen'))
last = tonumber(last or '')
local gap = last and time - last
local is_gap = gap and (gap > tonumber(ARGV[1]) or gap < 0)
if is_gap or ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], 'quiet_from', time, 'quiet_ms', ARGV[2])
end
if gap then
  local leap, left = leap_in(gap, tonumber(ARGV[5]), tonumber(unseen or '') or 0)
  if leap ~= 0 then
    move_ends(KEYS[2], KEYS[3], ARGV[6], ARGV[7], leap)
  end
  redis.call('HSET', KEYS[1], 'unseen', string.format('%.0f', left))
end
redis.call('HSET', KEYS[1], 'last', time, 'silence', ARGV[1], 'budget', ARGV[3])
return is_gap and 1 or 0
