-- Prepended to every script of this folder, after prelude.lua: how far a job is, and which of its segments may be rendered.
--
-- A part begins with a cut, and needs nothing of what is before it. The record of a job whose parts may be rendered in
-- parallel has two more fields:
--   next_part  no segment before this one begins a part that can still be opened
--   ahead      JSON list of {first, cursor}, ascending: behind the job's cursor, the segments from `first` to before
--              `cursor` are committed, and `cursor` is next there; absent while there are none
-- Its fields about the newest commit and the progress of a segment are 'winner:<i>', until the clip is committed or the job
-- has ended, and 'progress:<i>'.
-- The job's cursor is always the first segment that is not committed.

-- Segments that one call looks at in search of the next part.
local SCANNED = 1000

-- How far a job is: its cursor, how many segments it has, whether it is open (at its end it waits for more segments), how
-- many of its segments were approved, false when it asks for no approval, and whether its film is committed and shows all
-- that was appended and chosen.
local function read_extent(record)
  local cursor, segments, open, approved, film, outdated = unpack(
    redis.call('HMGET', record, 'cursor', 'segments', 'open', 'approved', 'film', 'outdated'))
  return {
    cursor = tonumber(cursor), segments = tonumber(segments), open = open ~= false,
    approved = approved and tonumber(approved), has_film = film and not outdated,
  }
end

-- Whether a job waits until a user approves what it has rendered. Clips and repairs go on meanwhile.
local function awaits_approval(extent)
  return extent.approved and extent.approved < extent.cursor
end

-- Whether the segment at the cursor is due. Every script that announces segments asks this function.
local function is_segment_due(extent)
  return extent.cursor < extent.segments and not awaits_approval(extent)
end

-- Whether the film is due, when so many clips are committed. Every script that announces films asks this function.
local function is_film_due(extent, clips)
  return clips == extent.segments and clips > 0 and not extent.open and not awaits_approval(extent) and not extent.has_film
end

-- Whether a packed segment is a cut: the first segment of a part.
local function is_cut(packed)
  local value = unpacked(packed)
  return value ~= nil and value.transition == 'cut'
end

-- Whether a packed segment has `frames: auto` and no length yet, so that nobody knows where what follows it will be.
local function is_undecided(packed)
  local value = unpacked(packed)
  return value ~= nil and value.auto_frames == true and not value.frames
end

-- The runs of committed segments behind the cursor.
local function read_ahead(record)
  local readable, ahead = pcall(cjson.decode, redis.call('HGET', record, 'ahead') or '[]')
  if not readable or type(ahead) ~= 'table' then
    damaged('record: ahead')
  end
  for _, run in ipairs(ahead) do
    if type(run) ~= 'table' or not has_type(run[1], 'integer') or not has_type(run[2], 'integer') then
      damaged('record: ahead')
    end
  end
  return ahead
end

-- Write the cursor of a job and these runs behind it, in any order. Those that meet become one.
local function write_cursors(record, cursor, runs)
  table.sort(runs, function(a, b) return a[1] < b[1] end)
  local ahead = {}
  for _, run in ipairs(runs) do
    local before = ahead[#ahead]
    if run[1] == cursor then
      cursor = run[2]
    elseif before and before[2] == run[1] then
      before[2] = run[2]
    else
      ahead[#ahead + 1] = run
    end
  end
  redis.call('HSET', record, 'cursor', cursor)
  if ahead[1] then
    redis.call('HSET', record, 'ahead', cjson.encode(ahead))
  else
    redis.call('HDEL', record, 'ahead')
  end
end

-- Whether a segment is committed.
local function is_committed(record, index)
  if index < tonumber(redis.call('HGET', record, 'cursor')) then
    return index >= 0
  end
  for _, run in ipairs(read_ahead(record)) do
    if index >= run[1] and index < run[2] then
      return true
    end
  end
  return false
end

-- The committed segments, in order.
local function committed_segments(record)
  local found = {}
  for index = 0, tonumber(redis.call('HGET', record, 'cursor')) - 1 do
    found[#found + 1] = index
  end
  for _, run in ipairs(read_ahead(record)) do
    for index = run[1], run[2] - 1 do
      found[#found + 1] = index
    end
  end
  return found
end

-- Move the cursor at this segment, the job's or that of a run, behind it.
local function advance(record, index)
  local cursor, ahead = tonumber(redis.call('HGET', record, 'cursor')), read_ahead(record)
  for _, run in ipairs(ahead) do
    run[2] = run[2] == index and index + 1 or run[2]
  end
  write_cursors(record, cursor == index and index + 1 or cursor, ahead)
end

-- The segments at a cursor: those after committed ones.
local function segments_at_cursors(record, extent)
  local found = { extent.cursor < extent.segments and extent.cursor or nil }
  for _, run in ipairs(read_ahead(record)) do
    if run[2] < extent.segments then
      found[#found + 1] = run[2]
    end
  end
  return found
end

-- The first segment of the next part that can be opened, or nil: the lengths of all segments before it must be decided.
-- Those before the last cursor are, because parts behind them were opened.
local function find_next_part(record, spec, extent)
  local ahead, known = read_ahead(record), tonumber(redis.call('HGET', record, 'next_part'))
  if not known then
    damaged('record: next_part')
  end
  local last = ahead[1] and ahead[#ahead][2] or extent.cursor
  if is_undecided(redis.call('HGET', spec, last)) then
    return nil
  end
  local from, is_known = math.max(known, last + 1), true
  local to = math.min(extent.segments, from + SCANNED)
  while from < to and is_known and not is_cut(redis.call('HGET', spec, from)) do
    is_known = not is_undecided(redis.call('HGET', spec, from))
    from = from + (is_known and 1 or 0)
  end
  if from > known and from <= extent.segments then
    redis.call('HSET', record, 'next_part', from)
  end
  return is_known and from < to and from or nil
end

-- The segments that may be rendered and have no unit, in the film's order.
local function startable_segments(record, units, spec, extent)
  if not is_parallel(record) then
    local is_free = is_segment_due(extent) and redis.call('HEXISTS', units, 'segment') == 0
    return { is_free and extent.cursor or nil }
  end
  local found = {}
  for _, index in ipairs(segments_at_cursors(record, extent)) do
    if redis.call('HEXISTS', units, 'segment:' .. index) == 0 then
      found[#found + 1] = index
    end
  end
  found[#found + 1] = find_next_part(record, spec, extent)
  return found
end

-- The name of the unit that renders a segment for the first time.
local function segment_unit(record, index)
  return is_parallel(record) and 'segment:' .. index or 'segment'
end

-- Have a segment that may be rendered, see `startable_segments`, be at a cursor: it may begin a part that is not open yet.
local function open_part(record, extent, index)
  if not is_parallel(record) then
    return
  end
  for _, at in ipairs(segments_at_cursors(record, extent)) do
    if at == index then
      return
    end
  end
  local ahead = read_ahead(record)
  ahead[#ahead + 1] = { index, index }
  write_cursors(record, extent.cursor, ahead)
end

-- Close parts that were opened, before anybody has claimed them, when segment `index` is replaced: its own, if it is no cut
-- any more, and those behind it, if its length is to be decided.
local function close_parts(record, units, index, packed)
  local closes_own, closes_later = not is_cut(packed), is_undecided(packed)
  if closes_later and is_parallel(record) and tonumber(redis.call('HGET', record, 'next_part')) > index then
    redis.call('HSET', record, 'next_part', index)
  end
  local ahead = {}
  for _, run in ipairs(read_ahead(record)) do
    local is_closed = run[1] == index and closes_own or run[1] > index and closes_later
    if is_closed and run[2] == run[1] then
      redis.call('HDEL', units, segment_unit(record, run[1]))
    else
      ahead[#ahead + 1] = run
    end
  end
  write_cursors(record, read_extent(record).cursor, ahead)
end

-- Whether a job has a segment in work or in the queue. names: of its units.
local function has_segment_unit(names)
  for _, name in ipairs(names) do
    if string.find(name, '^segment') then
      return true
    end
  end
  return false
end

-- Whether messages of other jobs wait in the queue of segments, of the priority of this job. shared, high: its lists.
local function others_wait(record, units, shared, high)
  local list, own = redis.call('HGET', record, 'priority') == 'high' and high or shared, 0
  for _, name in ipairs(redis.call('HKEYS', units)) do
    local unit = (string.find(name, '^segment') or string.find(name, '^repair') or string.find(name, '^take'))
      and read_unit(units, name)
    if unit and not is_claimed(unit) and unit.announced > 0 and not unit.sticky then
      own = own + 1
    end
  end
  return redis.call('LLEN', list) > own
end

-- The segment whose message follows the commit of another one, or nil. The next one goes before others, and a job with a
-- segment in work or in the queue takes no further worker from other jobs.
local function following_segment(record, units, spec, index, shared, high)
  local extent = read_extent(record)
  local free = startable_segments(record, units, spec, extent)
  if not is_parallel(record) or not free[1] then
    return free[1]
  end
  if has_segment_unit(redis.call('HKEYS', units)) and others_wait(record, units, shared, high) then
    return nil
  end
  for _, at in ipairs(free) do
    if at == index + 1 then
      return at
    end
  end
  return free[1]
end

-- The last segment that was made, or is being made, from segment `index` of a parallel job: of the same part. Returns it,
-- and the last one of them that is committed.
local function ends_of_part(record, spec, index)
  local committed = index
  while is_committed(record, committed + 1) and not is_cut(redis.call('HGET', spec, committed + 1)) do
    committed = committed + 1
  end
  return is_cut(redis.call('HGET', spec, committed + 1)) and committed or committed + 1, committed
end

-- Have the segments from after `index` to `last`, which are committed, count as not committed in a parallel job.
local function rewind_part(record, spec, index, last)
  local ahead = read_ahead(record)
  ahead[#ahead + 1] = { 0, tonumber(redis.call('HGET', record, 'cursor')) }
  local runs = {}
  for _, run in ipairs(ahead) do
    if index >= run[1] and index < run[2] and last > index then
      runs[#runs + 1] = { run[1], index + 1 }
      if is_cut(redis.call('HGET', spec, last + 1)) then -- the next part stays open
        runs[#runs + 1] = { last + 1, run[2] }
      end
    else
      runs[#runs + 1] = run
    end
  end
  write_cursors(record, 0, runs)
end
