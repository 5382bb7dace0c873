-- Prepended to every script of this folder.
--
-- A unit is a piece of a job's work that one worker does at a time: 'segment' (the one at the cursor; in a job whose parts
-- are rendered in parallel 'segment:<i>', as there are several), 'repair:<i>' (a committed segment whose blobs were lost),
-- 'clip:<i>', 'take:<i>:<n>' (one more take of a committed segment, or one whose blobs were lost) or 'film'. Its entry in
-- a job's units hash is JSON:
--   format     version of this entry; absent in 0.1
--   index      the segment it is about, -1 for the film
--   ticket     number of its newest message; a message with a lower one is ignored
--   stamp      that message's place in its queue's history
--   announced  ms, when that message was announced; 0 when the message is known to be gone
--   sticky     true when the message is in a sticky queue, which has no history: the stamp is 0 then; absent in 0.1
--   priority   'high' when the message is among those of high priority, which have a list and stamps of their own; else
--              absent
--   token      random, of the claim that holds the unit; '' while nobody does
--   fence      number of that claim within the job
--   expires    ms, when the lease of that claim ends
--   lease      ms, the length of that lease; absent in 0.1
--   engine     true while the holder does work that can end its process: it loads, renders or encodes
--   worker     the holder's name
--   node       the holder's worker, the same for all its processes; absent in 0.1, as the following two
--   failures   the newest failed attempts, oldest first: {node, worker, reason, at}, at in ms
--   vanished   claims that expired during such work, and that nobody explained yet: {node, worker, ticket, token, at}
--   attempts   how often the unit failed, or ended its process
--   after      the unit that must be done first, '' for none
--   class_wait ms, when a worker of another render class first left the unit to one of its own; else absent
--   progress   of a claimed take: the JSON list of renew.lua; absent in 0.1
--   from_take  of a claimed 'segment': the take of the segment before that it continues, -1 after a cut
local FORMAT = '0.2'
-- Before a script changes anything: a key that all jobs share may hold another type, which somebody else wrote. An error
-- in the middle would leave half of a change behind. KEY_TYPES: key -> type, put before this prelude.
do
  local shared = { 'longtake:events', unpack(KEYS) }
  for _, key in ipairs(shared) do
    local wanted, found = KEY_TYPES[key], KEY_TYPES[key] and redis.call('TYPE', key).ok
    if wanted and found ~= 'none' and found ~= wanted then
      error('WRONGTYPE ' .. key .. ' is a ' .. found, 0)
    end
  end
end
-- Of records that say what workers of an earlier version would ignore.
local FORMAT_OF_JOBS = '1.0'
-- More would only make the entry longer.
local FAILURES_KEPT = 10
-- Entries of a stream of events: of one job, and of all jobs. Older ones are trimmed.
local EVENTS_KEPT, ALL_EVENTS_KEPT = 5000, 20000
local REQUESTS_KEPT = 16
-- How many segments of a job count as approved when its user has approved all, also those to come.
local ALL_APPROVED = 1000000000

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- For places in a line: finer than `now`, so that two jobs do not share one.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Whether `format` has a newer major version than this script reads. A newer minor version is readable.
local function is_newer(format)
  local major = tonumber(string.match(tostring(format or ''), '^(%d+)%.'))
  return major ~= nil and major > tonumber(string.match(FORMAT_OF_JOBS, '^%d+'))
end

-- The mapping in msgpack bytes; nil if there are none, or if they are damaged: their reader reports that.
local function unpacked(packed)
  local readable, value = pcall(cmsgpack.unpack, packed or '')
  return readable and type(value) == 'table' and value or nil
end

-- Whether msgpack bytes were written by a newer major version.
local function is_newer_packed(packed)
  local value = unpacked(packed)
  return value ~= nil and is_newer(value.format)
end

-- Have a record say that workers of an earlier version must leave the job alone, if a part of its spec says so.
local function note_format(record, part)
  local value = unpacked(part)
  if value and value.format == FORMAT_OF_JOBS then
    redis.call('HSET', record, 'format', FORMAT_OF_JOBS)
  end
end

local function is_newer_record(record)
  return is_newer(redis.call('HGET', record, 'format'))
end

-- The reply of a script that must not touch a record of a newer major version.
local function refuse_newer()
  return redis.error_reply('NEWER written by a newer longtake')
end

-- Add an event to the stream of its job, and to that of all jobs.
-- <prefix>job:<id>:events  stream  kind, data (JSON)
-- <prefix>events           stream  job, id (in the job's stream), kind, data
local function tell(record, kind, data)
  local prefix, job_id = string.match(record, '^(.*)job:([^:]+):record$')
  local text = next(data) and cjson.encode(data) or '{}'
  local id = redis.call('XADD', prefix .. 'job:' .. job_id .. ':events', 'MAXLEN', '~', EVENTS_KEPT, '*',
    'kind', kind, 'data', text)
  redis.call('XADD', prefix .. 'events', 'MAXLEN', '~', ALL_EVENTS_KEPT, '*',
    'job', job_id, 'id', id, 'kind', kind, 'data', text)
end

-- Whether a value has a type: that of Lua, or 'integer'.
local function has_type(value, wanted)
  if wanted == 'integer' then
    return type(value) == 'number' and value % 1 == 0 and math.abs(value) < 2 ^ 53
  end
  return type(value) == wanted
end

-- The name of a field of a mapping that does not have its type, or nil.
local function wrong_field(value, types, may_be_absent)
  for field, wanted in pairs(types) do
    if not has_type(value[field], wanted) and not (may_be_absent and value[field] == nil) then
      return field
    end
  end
end

local UNIT_FIELDS = {
  index = 'integer', ticket = 'integer', stamp = 'integer', announced = 'integer', token = 'string',
  fence = 'integer', expires = 'integer', engine = 'boolean', worker = 'string', attempts = 'integer', after = 'string',
}
local LATER_UNIT_FIELDS = {
  sticky = 'boolean', priority = 'string', lease = 'integer', node = 'string', failures = 'table', vanished = 'table',
  from_take = 'integer', progress = 'string', class_wait = 'integer',
}
local ATTEMPT_FIELDS = { node = 'string', worker = 'string', at = 'integer' }

-- What is wrong with an entry of a job's units hash, or nil.
local function wrong_unit(name, unit)
  local number = string.match(name, '^clip:(%d+)$') or string.match(name, '^repair:(%d+)$')
    or string.match(name, '^segment:(%d+)$') or string.match(name, '^take:(%d+):%d+$') or name == 'film' and -1
  if not number and name ~= 'segment' then
    return 'name'
  end
  local field = wrong_field(unit, UNIT_FIELDS) or wrong_field(unit, LATER_UNIT_FIELDS, true)
  if field then
    return field
  end
  if unit.index ~= (tonumber(number) or unit.index) then
    return 'index'
  end
  for _, kind in ipairs({ 'failures', 'vanished' }) do
    for _, attempt in ipairs(unit[kind] or {}) do
      if type(attempt) ~= 'table' or wrong_field(attempt, ATTEMPT_FIELDS) then
        return kind
      end
    end
  end
end

-- End a script because of a damaged record.
local function damaged(what)
  error('DAMAGED ' .. what .. ';', 0)
end

-- An entry of a job's units hash. One of a newer major version is not looked at. A damaged one is an error, for which the
-- caller fails the job: nothing that is based on it would ever end.
local function parse_unit(name, raw)
  local readable, unit = pcall(cjson.decode, raw)
  readable = readable and type(unit) == 'table'
  if readable and is_newer(unit.format) then
    return unit
  end
  local wrong = not readable and 'not a JSON object' or wrong_unit(name, unit)
  if wrong then
    damaged('unit ' .. name .. ': ' .. wrong)
  end
  return unit
end

local function read_unit(units, name)
  local raw = redis.call('HGET', units, name)
  return raw and parse_unit(name, raw) or nil
end

local function write_unit(units, name, unit)
  redis.call('HSET', units, name, cjson.encode(unit))
end

local function new_unit(index)
  return {
    format = FORMAT, index = index, ticket = 0, stamp = 0, announced = 0, sticky = false, token = '', fence = 0,
    expires = 0, engine = false, worker = '', node = '', attempts = 0, failures = {}, vanished = {}, after = '',
  }
end

-- Whether the parts of a job may be rendered in parallel, see prelude_parts.lua.
local function is_parallel(record)
  return redis.call('HEXISTS', record, 'next_part') == 1
end

-- The field of a record that is about the segment or the repair that is in work: in a parallel job there are several.
local function field_of(record, name, index)
  return is_parallel(record) and name .. ':' .. index or name
end

local function is_claimed(unit)
  return unit ~= nil and unit.token ~= ''
end

-- A lease that ends later than its whole length from now was made before the clock was set back, and is over.
local function is_live(unit, time)
  local left = is_claimed(unit) and unit.expires - time or 0
  return left > 0 and left <= (unit.lease or left)
end

-- Renew the lease of a claimed unit.
local function extend_lease(unit, lease_ms)
  unit.lease = lease_ms
  unit.expires = now() + lease_ms
end

local function is_blocked(units, unit)
  return unit.after ~= '' and redis.call('HEXISTS', units, unit.after) == 1
end

-- Whether work of a job in this state is handed out.
local function is_running_state(state)
  return state == 'queued' or state == 'running'
end

local function is_running(record)
  return is_running_state(redis.call('HGET', record, 'state'))
end

-- Neither ended nor unknown: a paused job is unfinished, too.
local function is_unfinished(record)
  return is_running(record) or redis.call('HGET', record, 'state') == 'paused'
end

-- Whether messages about a job may be sent: it is running and was admitted.
local function is_published(record)
  return is_running(record) and redis.call('HEXISTS', record, 'admitted') == 1
end

-- The field of a queue's history for messages of this priority. field: 'stamp' or 'claimed'.
local function history_field(field, priority)
  return priority and field .. ':' .. priority or field
end

-- The next stamp of a queue. A worker of 0.1 does not know priorities and may have raised 'claimed': a stamp is always
-- above that, or the message would count as lost.
local function next_stamp(queue, priority)
  local field = history_field('stamp', priority)
  local claimed = tonumber(redis.call('HGET', queue, history_field('claimed', priority)) or 0)
  local stamp = redis.call('HINCRBY', queue, field, 1)
  return stamp > claimed and stamp or redis.call('HINCRBY', queue, field, claimed - stamp + 1)
end

-- Reserve the ticket of a unit's next message, which has the priority of its job. The message goes to the sticky queue of
-- the publisher's worker if that is wanted and no message of this priority waits in the shared queue.
-- shared, high: the lists with the messages of the queue, and with those of high priority.
-- Returns {ticket, 1 for the sticky queue else 0, the job's title, its number of segments, 'high' or ''}.
local function announce(record, units, queue, shared, high, name, unit, wants_sticky)
  local title, segments, priority = unpack(redis.call('HMGET', record, 'title', 'segments', 'priority'))
  unit.priority = priority == 'high' and priority or nil
  unit.ticket = redis.call('HINCRBY', record, 'ticket', 1)
  unit.sticky = wants_sticky and redis.call('LLEN', unit.priority and high or shared) == 0
  unit.stamp = unit.sticky and 0 or next_stamp(queue, unit.priority)
  unit.announced = now()
  write_unit(units, name, unit)
  return { unit.ticket, unit.sticky and 1 or 0, title, tonumber(segments), unit.priority or '' }
end

-- Record that a unit's newest message was taken from its queue. While the job is paused the message is used up.
local function note_delivery(record, units, queue, name, unit, ticket)
  if not unit or ticket ~= unit.ticket then
    return
  end
  local field = history_field('claimed', unit.priority)
  local claimed = tonumber(redis.call('HGET', queue, field) or 0)
  redis.call('HSET', queue, field, math.max(claimed, unit.stamp))
  if redis.call('HGET', record, 'state') == 'paused' and not is_claimed(unit) then
    unit.announced = 0
    write_unit(units, name, unit)
  end
end

-- Why a message with this ticket does not get the unit, or nil. A holder that repeats its claim, because the reply was
-- lost, gets it.
local function refusal(units, name, unit, ticket, token)
  if ticket < unit.ticket then
    return 'a newer message has replaced this one'
  end
  if is_claimed(unit) and unit.token ~= token then
    return name .. ' ' .. unit.index .. ' is held by ' .. unit.worker
  end
  if is_blocked(units, unit) then
    return name .. ' waits for ' .. unit.after
  end
end

-- Give a unit to a new holder; returns its fence.
local function grant(record, units, name, unit, token, lease_ms, worker, node)
  unit.token = token
  unit.node = node
  unit.fence = redis.call('HINCRBY', record, 'fence', 1)
  extend_lease(unit, lease_ms)
  unit.engine, unit.progress = false, nil
  unit.worker = worker
  unit.after = ''
  write_unit(units, name, unit)
  return unit.fence
end

-- The holder of a committed segment goes on with its clip, under the same claim.
local function grant_clip(units, index, unit, lease_ms)
  extend_lease(unit, lease_ms)
  unit.engine = false
  unit.attempts, unit.failures, unit.vanished = 0, {}, {}
  write_unit(units, 'clip:' .. index, unit)
end

-- Take a claim back before its work is done; the reconciler announces the unit anew. Progress of a segment is discarded.
local function release(record, units, name, unit)
  if string.find(name, '^segment') then
    redis.call('HDEL', record, field_of(record, 'progress', unit.index))
  end
  unit.token = ''
  unit.engine, unit.progress = false, nil
  unit.announced = 0
  write_unit(units, name, unit)
end

-- The recent requests of a record: {token, reply, digest of what was asked for or nothing} each, oldest first. Damaged
-- ones are forgotten.
local function read_requests(record)
  local readable, requests = pcall(cjson.decode, redis.call('HGET', record, 'requests') or '[]')
  return readable and type(requests) == 'table' and pcall(cjson.encode, requests) and requests or {}
end

-- The reply to a request that the record remembers, or nil; and whether something else was asked for with this token.
local function earlier_reply(record, token, digest)
  for _, request in ipairs(read_requests(record)) do
    if type(request) == 'table' and request[1] == token then
      return request[2], (request[3] or '') ~= (digest or '')
    end
  end
end

-- Have the record remember a request and its reply: the same request again gets the same reply and changes nothing.
local function note_request(record, token, reply, digest)
  local requests = read_requests(record)
  requests[#requests + 1] = { token, reply, digest }
  if #requests > REQUESTS_KEPT then
    table.remove(requests, 1)
  end
  redis.call('HSET', record, 'requests', cjson.encode(requests))
end

-- The state of a job that neither has ended nor is paused.
local function going_state(record)
  return redis.call('HEXISTS', record, 'started_at') == 1 and 'running' or 'queued'
end

-- Close an open job: no more segments are waited for.
local function close(record)
  redis.call('HDEL', record, 'open', 'waited_ms', 'waited_at')
  tell(record, 'closed', {})
end

-- Take the claim out of those that vanished, for which `matches` is true; returns it, or nil.
local function take_vanished(unit, matches)
  for i, lost in ipairs(unit and unit.vanished or {}) do
    if matches(lost) then
      return table.remove(unit.vanished, i)
    end
  end
end
