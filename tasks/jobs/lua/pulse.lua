-- Record that a reconciler reaches this server. If none did for a while, the server or the network was out and holders
-- could not renew their leases, so no lease is taken back until they had time to. The very first pulse follows no outage.
-- KEYS[1] pulse hash       'last': ms, newest pulse; 'silence': ms without one that count as an outage;
--                          'quiet_until': ms, until then no lease is taken back; 'budget': bytes of blobs, 0 for no limit
-- ARGV[1] silence, ARGV[2] ms that holders get to renew their leases after an outage, ARGV[3] budget
local time = now()
local last = redis.call('HGET', KEYS[1], 'last')
if last and time - tonumber(last) > tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'quiet_until', time + tonumber(ARGV[2]))
end
redis.call('HSET', KEYS[1], 'last', time, 'silence', ARGV[1], 'budget', ARGV[3])
return 1
