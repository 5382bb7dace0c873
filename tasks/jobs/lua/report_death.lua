-- Report that the process which had a unit's message died. Its claim is taken back; if it died during work that can end a
-- process, that is a failed attempt, also when the lease has expired meanwhile. A second report changes nothing.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- KEYS[3] active  zset     ids of unfinished jobs
-- KEYS[4] ended   zset     ids of ended jobs by their end, ms
-- KEYS[5] takes   hash
-- ARGV[1] job id, ARGV[2] 'segment', 'take', 'clip' or 'film', ARGV[3] segment index (-1 for the film), ARGV[4] the message's
-- ticket, ARGV[5] node, ARGV[6] reason, ARGV[7] attempts allowed, ARGV[8] number of the take
-- Returns {'retry', ticket, unit name}, {'failed', 0, unit name} or {'refused', 0, ''}.
local refused = { 'refused', 0, '' }
if is_newer_record(KEYS[1]) then
  return refuse_newer()
end
if not is_unfinished(KEYS[1]) then
  return refused
end
local ticket, node, allowed = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[7])
local names = {
  film = { 'film' }, clip = { 'clip:' .. ARGV[3] }, segment = { 'segment', 'segment:' .. ARGV[3], 'repair:' .. ARGV[3] },
  take = { 'take:' .. ARGV[3] .. ':' .. ARGV[8] },
}
local takes, active, ended = KEYS[5], KEYS[3], KEYS[4]
for _, name in ipairs(names[ARGV[2]]) do
  local unit = read_unit(KEYS[2], name)
  if unit and is_newer(unit.format) then
    return refuse_newer()
  end
  if unit and unit.index == tonumber(ARGV[3]) then
    local held = is_claimed(unit) and unit.ticket == ticket and unit.node == node
    local vanished = not held and take_vanished(unit, function(lost) return lost.ticket == ticket and lost.node == node end)
    local by = vanished or (held and unit.engine and unit)
    if by and count_attempt(KEYS[1], KEYS[2], takes, active, ended, ARGV[1], name, unit, by, 'died', ARGV[6],
      allowed) then
      return { 'failed', 0, name }
    end
    if held or (not is_claimed(unit) and unit.ticket == ticket) then
      release(KEYS[1], KEYS[2], name, unit)
      return { 'retry', unit.ticket, name }
    end
    write_unit(KEYS[2], name, unit)
  end
end
return refused
