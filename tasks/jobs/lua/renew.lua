-- Renew the lease of a claim, and record progress. A holder that finds its claim lost lives: it did not vanish.
-- KEYS[1] record  hash
-- KEYS[2] units   hash
-- ARGV[1] unit name, ARGV[2] token, ARGV[3] lease ms, ARGV[4] 'engine' (inside the engine call), 'outside' or
-- '' (no change), ARGV[5] progress, the JSON list [segment, step, of so many steps, seconds of each], or ''
-- Returns 1, or 0 if the claim is lost.
local unit = read_unit(KEYS[2], ARGV[1])
if not unit or unit.token ~= ARGV[2] then
  if take_vanished(unit, function(lost) return lost.token == ARGV[2] end) then
    write_unit(KEYS[2], ARGV[1], unit)
  end
  return 0
end
extend_lease(unit, tonumber(ARGV[3]))
if ARGV[4] ~= '' then
  unit.engine = ARGV[4] == 'engine'
end
local _, take = take_of(ARGV[1])
if ARGV[5] ~= '' and take then -- the record has that of the segment
  unit.progress = ARGV[5]
elseif ARGV[5] ~= '' and (string.find(ARGV[1], '^segment') or string.find(ARGV[1], '^repair:')) then
  redis.call('HSET', KEYS[1], field_of(KEYS[1], 'progress', unit.index), ARGV[5])
end
write_unit(KEYS[2], ARGV[1], unit)
if ARGV[5] ~= '' then
  local segment, step, steps, step_s = unpack(cjson.decode(ARGV[5]))
  tell(KEYS[1], 'step', { segment = segment, take = take, step = step, steps = steps, step_s = step_s })
end
return 1
