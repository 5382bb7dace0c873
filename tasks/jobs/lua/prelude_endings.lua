-- Prepended to every script of this folder, after prelude_takes.lua: how attempts and jobs end.

-- Segment and number of a take whose unit has this name; nothing for other units.
local function take_of(name)
  local index, number = string.match(name, '^take:(%d+):(%d+)$')
  return tonumber(index), tonumber(number)
end

-- End a job: no more work is handed out, and no commit is accepted. Takes that were asked for will not be rendered. index:
-- the segment that failed it, or nil.
local function finish(record, units, takes, active, ended, job_id, state, reason, index)
  for _, name in ipairs(redis.call('HKEYS', units)) do
    local its_index, number = take_of(name)
    if number and not is_whole(takes, its_index, number) then
      fail_take(units, takes, its_index, number, 'the job was ' .. state .. ' before')
    end
  end
  redis.call('HSET', record, 'state', state, 'reason', reason, 'finished_at', now())
  for _, field in ipairs(redis.call('HKEYS', record)) do
    if field == 'progress' or string.find(field, '^progress:') or string.find(field, '^winner:') then
      redis.call('HDEL', record, field)
    end
  end
  redis.call('DEL', units)
  redis.call('ZREM', active, job_id)
  redis.call('ZADD', ended, now(), job_id)
  tell(record, state, { reason = reason ~= '' and reason or nil, segment = index })
end

-- End a job as done when its film is committed and no take is to be rendered.
local function finish_if_done(record, units, takes, active, ended, job_id)
  if not is_unfinished(record) or not has_current_film(record) then
    return
  end
  for _, name in ipairs(redis.call('HKEYS', units)) do
    if take_of(name) then
      return
    end
  end
  finish(record, units, takes, active, ended, job_id, 'done', '')
end

-- End a job as failed because of one of its units. A take that was never whole fails alone.
local function fail(record, units, takes, active, ended, job_id, name, unit, reason)
  local its_index, number = take_of(name)
  if number and not is_whole(takes, its_index, number) then
    local first, last = segments_of(takes, its_index, number)
    fail_take(units, takes, its_index, number, reason)
    tell(record, 'take', { segment = first, last = last ~= first and last or nil, take = number, failed = reason })
    finish_if_done(record, units, takes, active, ended, job_id)
    return
  end
  finish(record, units, takes, active, ended, job_id, 'failed', reason, unit.index)
  redis.call('HSET', record, 'failed_segment', unit.index, 'attempts', unit.attempts,
    'failures', cjson.encode(unit.failures or {}))
end

-- Say that an attempt at a unit came to nothing. why: 'failed', 'died' (its process) or 'vanished' (its worker).
local function tell_attempt(record, name, unit, why)
  local kind = string.match(name, '^%a+')
  tell(record, 'attempt', { unit = kind, segment = unit.index >= 0 and unit.index or nil, why = why })
end

-- Count a failed attempt of a unit that `by` held; the last one allowed fails the job. Returns whether it did. why: see
-- `tell_attempt`.
local function count_attempt(record, units, takes, active, ended, job_id, name, unit, by, why, reason, allowed)
  tell_attempt(record, name, unit, why)
  unit.attempts = unit.attempts + 1
  unit.failures = unit.failures or {}
  table.insert(unit.failures, { node = by.node or '', worker = by.worker, reason = reason, at = now() })
  if #unit.failures > FAILURES_KEPT then
    table.remove(unit.failures, 1)
  end
  if unit.attempts < allowed then
    return false
  end
  fail(record, units, takes, active, ended, job_id, name, unit, reason)
  return true
end
