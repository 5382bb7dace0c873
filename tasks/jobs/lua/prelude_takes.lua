-- Prepended to every script of this folder, after prelude.lua: which takes of its segments a job has, shows and continues.
--
-- Take 0 of a segment is what the chain rendered: its handoff is in the handoffs hash. A job's takes hash has of the others:
--   <segment>             the number of the newest take; they count from 1
--   <segment>:<n>         what was asked for, msgpack
-- Several neighbours may be one take, of one number, which is shown whole: what was asked for says their 'first' and 'last'
-- segment. It has the other fields for each of them.
--   <segment>:<n>:made    its handoff, once it is rendered, msgpack
--   <segment>:<n>:clip    its clip by itself, not crossfaded, msgpack; also of take 0, while another one is shown
--   <segment>:<n>:failed  why it is not there, and will not be
--   <segment>:shown       the take that the film shows; absent for 0

-- Workers of an earlier version leave a job with such a record alone: they know no takes. If one of them has the film, it
-- may not commit it: it would end the job, and with it the takes that are to be rendered.
local function need_version_of_takes(record, units)
  if redis.call('HGET', record, 'format') ~= FORMAT_OF_JOBS then
    redis.call('HSET', record, 'format', FORMAT_OF_JOBS)
    redis.call('HDEL', units, 'film')
  end
end

local function shown_take(takes, index)
  return tonumber(redis.call('HGET', takes, index .. ':shown') or 0)
end

-- The handoff of a take, or false.
local function handoff_of(handoffs, takes, index, take)
  if take == 0 then
    return redis.call('HGET', handoffs, index)
  end
  return redis.call('HGET', takes, index .. ':' .. take .. ':made')
end

-- A number in msgpack bytes that an older version may not have written.
local function packed_number(packed, name, otherwise)
  local value = unpacked(packed)
  return value and tonumber(value[name]) or otherwise
end

-- The first and last segment of a take.
local function segments_of(takes, index, number)
  local request = number ~= 0 and redis.call('HGET', takes, index .. ':' .. number)
  if not request then
    return index, index
  end
  return packed_number(request, 'first', index), packed_number(request, 'last', index)
end

-- Whether every segment of a take other than 0 is rendered.
local function is_whole(takes, index, number)
  local first, last = segments_of(takes, index, number)
  for segment = first, last do
    if redis.call('HEXISTS', takes, segment .. ':' .. number .. ':made') == 0 then
      return false
    end
  end
  return true
end

-- Whether the handoff of a segment says that it continues the one before; 0.1 had it in its timing.
local function continues(packed)
  local value = unpacked(packed)
  if not value then
    return true
  end
  return value.continued or (type(value.timing) == 'table' and value.timing.continued) or false
end

-- The take of a segment that the next one continues, committed or running; nil if none does yet, or after a cut.
local function continued_take(units, handoffs, index)
  local following = redis.call('HGET', handoffs, index + 1)
  if following then
    return continues(following) and packed_number(following, 'from_take', 0) or nil
  end
  local unit = read_unit(units, 'segment') or read_unit(units, 'segment:' .. index + 1)
  if is_claimed(unit) and unit.index == index + 1 and unit.from_take ~= -1 then
    return unit.from_take or 0
  end
end

-- The takes that the segments from `last` back to `first` show where nobody has chosen: of each the one that the next
-- segment continues, else 0; a take of several segments in all of them. It goes further back as long as such a take does, or,
-- down to `lowest`, one that is replaced. Returns them by segment, and the first of these segments. without: a take of `last`
-- that will not be there, or nil.
local function continued_takes(units, handoffs, takes, first, last, lowest, without)
  local found, at = {}, last
  while at >= first do
    local number = continued_take(units, handoffs, at) or 0
    number = number ~= without and number or 0
    local its_first = segments_of(takes, at, number)
    for segment = its_first, at do
      found[segment] = number
      local replaced = segments_of(takes, segment, shown_take(takes, segment))
      first = math.max(lowest, math.min(first, replaced))
    end
    at = its_first - 1
  end
  return found, at + 1
end

-- Have segments show these takes.
local function show_takes(takes, wanted)
  for segment, number in pairs(wanted) do
    if number == 0 then
      redis.call('HDEL', takes, segment .. ':shown')
    else
      redis.call('HSET', takes, segment .. ':shown', number)
    end
  end
end

-- What the clip of a segment shows: its take, the take of the next segment that its end is crossfaded with, and that of the
-- segment before that its begin dissolves from; -1 for none. Only the join after a take that the next segment does not
-- continue is crossfaded; within a take there is none.
local function clip_shows(units, handoffs, takes, index)
  local own, following = shown_take(takes, index), shown_take(takes, index + 1)
  local original, continued = redis.call('HGET', handoffs, index), continued_take(units, handoffs, index)
  local dissolves = original and packed_number(original, 'dissolve', 0) > 0
  local is_within = following ~= 0 and segments_of(takes, index + 1, following) <= index
  local is_apart = continued and continued ~= own and not is_within
  local crossfades = is_apart and redis.call('HEXISTS', handoffs, index + 1) == 1
  return own, crossfades and following or -1, dissolves and shown_take(takes, index - 1) or -1
end

-- Whether a packed clip shows these takes.
local function shows(packed, own, following, before)
  return packed_number(packed, 'take', 0) == own and packed_number(packed, 'next_take', -1) == following
    and packed_number(packed, 'dissolves_from', -1) == before
end

-- Have a segment's clip made anew if it shows other takes than those given. A clip that exists already is taken. Returns
-- whether a committed clip was replaced.
local function update_clip(units, handoffs, clips, takes, index, own, following, before)
  local wanted, wanted_next, wanted_before = clip_shows(units, handoffs, takes, index)
  local is_same = wanted == own and wanted_next == following and wanted_before == before
  if is_same or redis.call('HEXISTS', handoffs, index) == 0 then
    return false
  end
  local former = redis.call('HGET', clips, index)
  if former and following == -1 then
    redis.call('HSETNX', takes, index .. ':' .. own .. ':clip', former)
  end
  local ready = wanted_next == -1 and redis.call('HGET', takes, index .. ':' .. wanted .. ':clip')
  if ready and shows(ready, wanted, -1, wanted_before) then
    redis.call('HSET', clips, index, ready)
    redis.call('HDEL', units, 'clip:' .. index)
  else
    redis.call('HDEL', clips, index)
    write_unit(units, 'clip:' .. index, new_unit(index))
  end
  return former ~= false
end

-- What the clips of these segments show, by segment; see update_clips.
local function clips_show(units, handoffs, takes, first, last)
  local found = {}
  for index = math.max(0, first), last do
    found[index] = { clip_shows(units, handoffs, takes, index) }
  end
  return found
end

-- Have clips made anew that show other takes than before. Returns whether a committed one was replaced.
local function update_clips(units, handoffs, clips, takes, before)
  local replaced = false
  for index, shown in pairs(before) do
    replaced = update_clip(units, handoffs, clips, takes, index, unpack(shown)) or replaced
  end
  return replaced
end

-- The film, if there is one, no longer shows what was chosen. It stays until the next one is committed.
local function outdate_film(record, units)
  redis.call('HDEL', units, 'film')
  if redis.call('HEXISTS', record, 'film') == 1 then
    redis.call('HSET', record, 'outdated', 1)
  end
end

local function has_current_film(record)
  return read_extent(record).has_film
end

-- A take that the film does not show will not be there: none of its segments, rendered or not.
local function fail_take(units, takes, index, number, reason)
  local first, last = segments_of(takes, index, number)
  for segment = first, last do
    local field = segment .. ':' .. number
    redis.call('HDEL', takes, field .. ':made', field .. ':clip')
    redis.call('HDEL', units, 'take:' .. field)
    redis.call('HSET', takes, field .. ':failed', reason)
  end
end

-- Discard a take because its bytes cannot be had any more. Where the film showed it, it shows what the segments after it
-- continue.
local function discard_take(units, handoffs, clips, takes, index, number)
  local first, last = segments_of(takes, index, number)
  local wanted, lowest = {}, first
  if shown_take(takes, index) == number then
    wanted, lowest = continued_takes(units, handoffs, takes, first, last, 0, number)
  end
  local before = clips_show(units, handoffs, takes, lowest - 1, last + 1)
  show_takes(takes, wanted)
  update_clips(units, handoffs, clips, takes, before)
  fail_take(units, takes, index, number, 'what it was made from was rendered again, with other bytes')
end

-- Discard the takes of a segment, rendered or not, or only those that lead into the original's end.
local function discard_takes(units, handoffs, clips, takes, index, only_pinned)
  redis.call('HDEL', takes, index .. ':0:clip')
  for number = 1, tonumber(redis.call('HGET', takes, index) or 0) do
    local unit = 'take:' .. index .. ':' .. number
    local made = redis.call('HGET', takes, index .. ':' .. number .. ':made')
    local falls = not only_pinned or (made and packed_number(made, 'pinned_to', -1) ~= -1)
    if falls and (made or redis.call('HEXISTS', units, unit) == 1) then
      discard_take(units, handoffs, clips, takes, index, number)
    elseif only_pinned and is_claimed(read_unit(units, unit)) then
      write_unit(units, unit, new_unit(index)) -- its holder has read the old end
    end
  end
end

-- Discard a clip, committed or running; it is due.
local function discard_clip(units, clips, index)
  redis.call('HDEL', clips, index)
  write_unit(units, 'clip:' .. index, new_unit(index))
end

-- Discard what was made from segment `index`, committed or running, and its own clip: its bytes are others now. The cursor
-- moves behind it. In a parallel job that is what is in the same part.
local function discard_after(record, units, handoffs, clips, takes, spec, index)
  local parallel, last, last_made = is_parallel(record), tonumber(redis.call('HGET', record, 'cursor')) - 1, math.huge
  if parallel then
    last_made, last = ends_of_part(record, spec, index)
  end
  outdate_film(record, units)
  local _, crossfaded = clip_shows(units, handoffs, takes, index - 1)
  if crossfaded ~= -1 then
    discard_clip(units, clips, index - 1)
  end
  redis.call('HDEL', clips, index)
  for later = index + 1, last do
    redis.call('HDEL', handoffs, later)
    redis.call('HDEL', clips, later)
  end
  discard_takes(units, handoffs, clips, takes, index, true)
  for later = index + 1, last do
    discard_takes(units, handoffs, clips, takes, later, false)
  end
  local chained = math.min(index, tonumber(redis.call('HGET', record, 'chained')))
  redis.call('HSET', record, 'chained', chained)
  if parallel then
    rewind_part(record, spec, index, last)
  else
    redis.call('HSET', record, 'cursor', index + 1)
  end
  local approved = read_extent(record).approved
  if approved and approved ~= ALL_APPROVED then -- nobody has seen the new bytes
    redis.call('HSET', record, 'approved', math.min(approved, index))
  end
  tell(record, 'rewound', { segment = index, epoch = redis.call('HINCRBY', record, 'epoch', 1) })
  for _, other in ipairs(redis.call('HKEYS', units)) do
    local its_index = read_unit(units, other).index
    local is_take_of_it = its_index == index and string.find(other, '^take:')
    local falls = its_index >= index and its_index <= last_made and not is_take_of_it
    if other == 'segment' or other == 'film' or falls then
      redis.call('HDEL', units, other)
      redis.call('HDEL', record, 'progress:' .. its_index)
    end
  end
end

-- Whether there is room for `needs` more bytes of blobs; then they are reserved for the job. A job that waits for room asks
-- for more of it. Returns nil, or the bytes that are reserved for all jobs.
local function reserve_more(record, reserved, job_id, needs, budget)
  local total, held = reserved_bytes(reserved), redis.call('HGET', reserved, job_id)
  local wanted = tonumber(redis.call('HGET', record, 'needs_bytes') or 0)
  if budget > 0 and math.max(total, wanted) + needs > budget then
    return total
  end
  if held then
    redis.call('HSET', reserved, job_id, string.format('%.0f', tonumber(held) + needs))
  end
  redis.call('HSET', record, 'needs_bytes', string.format('%.0f', wanted + needs))
end

-- Have a job need no more the bytes that a field of its record has, those of a piece that is not stored. Returns how many.
local function give_up_room(record, field)
  local bytes = tonumber(redis.call('HGET', record, field) or 0)
  if redis.call('HDEL', record, field) == 1 then
    redis.call('HINCRBY', record, 'needs_bytes', -bytes)
  end
  return bytes
end

-- Clips that are missing are due.
local function make_clips_due(record, units, clips)
  for _, index in ipairs(committed_segments(record)) do
    if redis.call('HEXISTS', clips, index) == 0 and redis.call('HEXISTS', units, 'clip:' .. index) == 0 then
      write_unit(units, 'clip:' .. index, new_unit(index))
    end
  end
end

-- Whether takes of a job may be asked for and chosen: it is unfinished, or it ended with all of its segments rendered.
local function can_have_takes(record)
  if is_unfinished(record) then
    return true
  end
  local cursor, segments, admitted = unpack(redis.call('HMGET', record, 'cursor', 'segments', 'admitted'))
  return cursor == segments and admitted ~= false
end

-- Why takes of a segment cannot be asked for or chosen, as the reply of a script; nil if they can.
local function refusal_of_takes(record, index)
  local state, cursor = unpack(redis.call('HMGET', record, 'state', 'cursor'))
  if not state then
    return { 'missing', 0 }
  end
  if not is_committed(record, index) then
    return { 'not rendered', tonumber(cursor) }
  end
  if not can_have_takes(record) then
    return { 'ended', state }
  end
end

-- Have an ended job continue where it ended: what was committed stays, attempts are forgotten, and clips that were missing
-- at the end are due.
local function revive(record, units, clips, active, ended, job_id)
  redis.call('HSET', record, 'state', going_state(record))
  redis.call('HDEL', record, 'reason', 'finished_at', 'failed_segment', 'attempts', 'failures', 'winner', 'settled')
  redis.call('ZADD', active, redis.call('HGET', record, 'created_at'), job_id)
  redis.call('ZREM', ended, job_id)
  make_clips_due(record, units, clips)
end

-- The same, of a job that may be unfinished; its room is still reserved.
local function wake(record, units, clips, active, ended, job_id)
  if not is_unfinished(record) then
    revive(record, units, clips, active, ended, job_id)
  end
end
