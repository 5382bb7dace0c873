-- Prepended to every script of this folder, after prelude.lua: room in the blob store.

-- Bytes of blobs that a job may need; nil without a record that says so.
local function needs_of(record)
  local needs = redis.call('TYPE', record).ok == 'hash' and tonumber(redis.call('HGET', record, 'needs_bytes'))
  return needs and needs >= 0 and needs < 2 ^ 53 and needs or nil
end

-- Bytes of the blob store that are reserved for all jobs together.
local function reserved_bytes(reserved)
  local total = 0
  for _, bytes in ipairs(redis.call('HVALS', reserved)) do
    total = total + tonumber(bytes)
  end
  return total
end

-- Whether the budget has room for `stored` bytes of a job, and then still for the largest job that waits: jobs that only
-- wait must not keep each other from ever being admitted. The job needs `needs` bytes in all.
local function has_room(budget, reserved_key, waiting, submitting, prefix, suffix, job_id, stored, needs)
  local reserved, held, largest = stored, stored, needs - stored
  local all = redis.call('HGETALL', reserved_key)
  for i = 1, #all, 2 do
    reserved = reserved + (all[i] == job_id and 0 or tonumber(all[i + 1]))
  end
  for _, ids in ipairs({ redis.call('ZRANGE', waiting, 0, -1), redis.call('SMEMBERS', submitting) }) do
    for _, other in ipairs(ids) do
      if other ~= job_id then
        local its_bytes = tonumber(redis.call('HGET', reserved_key, other) or 0)
        local its_needs = needs_of(prefix .. other .. suffix) or 0
        held, largest = held + its_bytes, math.max(largest, its_needs - its_bytes)
      end
    end
  end
  return math.max(reserved, held + largest) <= budget
end
