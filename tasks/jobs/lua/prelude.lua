-- Put before every script of this folder.
--
-- A unit is a piece of a job's work that one worker does at a time: 'segment' (the one at the cursor), 'repair:<i>' (a
-- committed segment whose blobs were lost), 'clip:<i>' or 'film'. Its entry in a job's units hash is JSON:
--   index      the segment it is about, -1 for the film
--   ticket     number of its newest message; a message with a lower one is forgotten
--   stamp      that message's place in its queue's history
--   announced  ms, when that message was announced; 0 when it is known to be gone
--   aside      true when it is in the queue of one worker alone, which has no history: the stamp is 0 then
--   token      random, of the claim that holds it; '' while only announced
--   fence      number of that claim within the job
--   expires    ms, when the lease of that claim ends
--   engine     true while the holder is inside the engine call
--   worker     the holder's name
--   attempts   how often it failed, or ended its worker, inside the engine call
--   after      the unit that must be done first, '' for none
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- For places in a line: finer than `now`, so that two jobs are not at the same one.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function read_unit(units, name)
  local raw = redis.call('HGET', units, name)
  return raw and cjson.decode(raw) or nil
end

local function write_unit(units, name, unit)
  redis.call('HSET', units, name, cjson.encode(unit))
end

local function new_unit(index)
  return {
    index = index, ticket = 0, stamp = 0, announced = 0, aside = false, token = '', fence = 0, expires = 0, engine = false,
    worker = '', attempts = 0, after = '',
  }
end

local function is_claimed(unit)
  return unit ~= nil and unit.token ~= ''
end

local function is_live(unit, time)
  return is_claimed(unit) and unit.expires > time
end

local function is_blocked(units, unit)
  return unit.after ~= '' and redis.call('HEXISTS', units, unit.after) == 1
end

local function hands_out_work(state)
  return state == 'queued' or state == 'running'
end

local function is_running(record)
  return hands_out_work(redis.call('HGET', record, 'state'))
end

-- Neither ended nor unknown: a paused job is unfinished, too.
local function is_unfinished(record)
  return is_running(record) or redis.call('HGET', record, 'state') == 'paused'
end

-- Note that a unit's newest message was taken from its queue. While the job is paused nobody works on it.
local function note_taken(record, units, queue, name, unit, ticket)
  if not unit or ticket ~= unit.ticket then
    return
  end
  local claimed = tonumber(redis.call('HGET', queue, 'claimed') or 0)
  redis.call('HSET', queue, 'claimed', math.max(claimed, unit.stamp))
  if redis.call('HGET', record, 'state') == 'paused' and not is_claimed(unit) then
    unit.announced = 0
    write_unit(units, name, unit)
  end
end

-- Why a message with this ticket does not get the unit, or nil. A holder that asks again, because the reply was lost, does.
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
local function grant(record, units, name, unit, token, lease_ms, worker)
  unit.token = token
  unit.fence = redis.call('HINCRBY', record, 'fence', 1)
  unit.expires = now() + lease_ms
  unit.engine = false
  unit.worker = worker
  unit.after = ''
  write_unit(units, name, unit)
  return unit.fence
end

-- A committed segment's holder goes on with its clip, under the same claim.
local function grant_clip(units, index, unit, lease_ms)
  unit.expires = now() + lease_ms
  unit.engine = false
  unit.attempts = 0
  write_unit(units, 'clip:' .. index, unit)
end

-- Take a claim back without its being done; the reconciler announces the unit anew. What was done of a segment is lost.
local function lay_down(record, units, name, unit)
  if name == 'segment' then
    redis.call('HDEL', record, 'progress')
  end
  unit.token = ''
  unit.engine = false
  unit.announced = 0
  write_unit(units, name, unit)
end

-- End a job: no more work is handed out, and no commit is accepted.
local function finish(record, units, active, ended, job_id, state, reason)
  redis.call('HSET', record, 'state', state, 'reason', reason, 'finished_at', now())
  redis.call('HDEL', record, 'progress')
  redis.call('DEL', units)
  redis.call('ZREM', active, job_id)
  redis.call('ZADD', ended, now(), job_id)
end
