-- Put before every script of this folder.
--
-- A unit is a piece of a job's work that one worker does at a time: 'segment' (the one at the cursor), 'clip:<i>' or
-- 'film'. Its entry in a job's units hash is JSON:
--   index      the segment it is about, -1 for the film
--   ticket     number of its newest message; a message with a lower one is forgotten
--   stamp      that message's place in its queue's history
--   announced  ms, when that message was announced
--   token      random, of the claim that holds it; '' while only announced
--   fence      number of that claim within the job
--   expires    ms, when the lease of that claim ends
--   engine     true while the holder is inside the engine call
--   worker     the holder's name
--   attempts   how often it failed, or ended its worker, inside the engine call
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function read_unit(units, name)
  local raw = redis.call('HGET', units, name)
  return raw and cjson.decode(raw) or nil
end

local function write_unit(units, name, unit)
  redis.call('HSET', units, name, cjson.encode(unit))
end

local function is_claimed(unit)
  return unit ~= nil and unit.token ~= ''
end

local function is_live(unit, time)
  return is_claimed(unit) and unit.expires > time
end

local function is_running(record)
  local state = redis.call('HGET', record, 'state')
  return state == 'queued' or state == 'running'
end

-- Give a unit to a new holder; returns its fence.
local function grant(record, units, name, unit, token, lease_ms, worker)
  unit.token = token
  unit.fence = redis.call('HINCRBY', record, 'fence', 1)
  unit.expires = now() + lease_ms
  unit.engine = false
  unit.worker = worker
  write_unit(units, name, unit)
  return unit.fence
end

-- Take a claim back without its being done; the reconciler announces the unit anew.
local function lay_down(units, name, unit)
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
