-- Close an open job: its film is joined once all of its segments are done. It must have one.
-- KEYS[1] record  hash
-- ARGV[1] token of the request
-- Returns 'closed', 'missing' without such a job, 'empty' when it has no segment, or 'not open'.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'missing'
end
local extent = read_extent(KEYS[1])
if extent.open and extent.segments == 0 then
  return 'empty'
end
if not extent.open then
  return earlier_reply(KEYS[1], ARGV[1]) or 'not open'
end
close(KEYS[1])
note_request(KEYS[1], ARGV[1], 'closed')
return 'closed'
