-- Approve the segments of a job up to an index, or all of them and those to come. To repeat it changes nothing.
-- KEYS[1] record  hash
-- ARGV[1] index, -1 for all
-- Returns 'approved', 'missing' without such a job, 'not asked' when the job asks for no approval, or 'not committed'.
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'missing'
end
local extent, index = read_extent(KEYS[1]), tonumber(ARGV[1])
if not extent.approved then
  return 'not asked'
end
if index >= extent.cursor then
  return 'not committed'
end
local approved = index < 0 and ALL_APPROVED or index + 1
if approved > extent.approved then
  redis.call('HSET', KEYS[1], 'approved', string.format('%.0f', approved))
  tell(KEYS[1], 'approved', { segment = index >= 0 and index or nil })
end
return 'approved'
