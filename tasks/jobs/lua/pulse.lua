-- Record that a reconciler reaches this server. A gap between two pulses is an outage, in which holders could not renew
-- their leases, so no lease expires until they have had time to. A clock that was set forward or back looks the same. The
-- first pulse ever does not follow an outage.
-- KEYS[1] pulse hash       'last': ms, newest pulse; 'silence': ms, a longer gap is an outage;
--                          'quiet_from', 'quiet_ms': no lease expires in this period; 'budget': bytes of blobs, 0 for
--                          no limit
-- ARGV[1] silence, ARGV[2] ms to renew leases after a gap, ARGV[3] budget, ARGV[4] 1 when the caller knows of an outage
-- that has just ended, else 0
-- Returns 1 after a gap, else 0.
local time = now()
local last = redis.call('HGET', KEYS[1], 'last')
local gap = last and time - tonumber(last)
local is_gap = gap and (gap > tonumber(ARGV[1]) or gap < 0)
if is_gap or ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], 'quiet_from', time, 'quiet_ms', ARGV[2])
end
redis.call('HSET', KEYS[1], 'last', time, 'silence', ARGV[1], 'budget', ARGV[3])
return is_gap and 1 or 0
