-- Quotas: how many grants a user, an address or a device may get within a sliding window, exactly.
--
-- Time is cut into periods as long as the window. A scope has two hashes, one for even and one
-- for odd periods: key -> 4-byte stamps, a stamp for each grant, in ms since its period began.
-- What lies in the window is all of the present period's and the end of the one before. When a
-- period begins, the hash that held the one before last is dropped as a whole: nothing expires
-- field by field.

-- Opens a scope at `now`. `seen` is the period of the last write; `even` and `odd` are key names.
local function quota_at(now, limit, window, seen, even, odd)
  limit, window, seen = tonumber(limit) or 0, tonumber(window) or 1, tonumber(seen) or -2
  local period = math.floor(now / window)
  local q = { limit = limit, window = window, period = period, offset = now - period * window }
  if period % 2 == 0 then q.cur, q.prev = even, odd else q.cur, q.prev = odd, even end
  q.cur_live = seen == period
  q.prev_live = seen == period or seen == period - 1
  q.stamp = struct.pack('>I4', q.offset)
  q.changed, q.new, q.begun = {}, {}, {}
  q.now_stamps, q.old_stamps = {}, {}
  return q
end

-- Reads the stamps of the keys ARGV[from..to]. Two calls at most.
local function quota_read(q, from, to)
  if q.cur_live then q.now_stamps = redis.call('HMGET', q.cur, unpack(ARGV, from, to)) end
  if q.prev_live then q.old_stamps = redis.call('HMGET', q.prev, unpack(ARGV, from, to)) end
end

-- Whether none of the i-th keys that were read has a stamp: every quota has room for it.
local function quota_unseen(quotas, i)
  for s = 1, 3 do
    local q = quotas[s]
    if q.now_stamps[i] or q.old_stamps[i] then return false end
  end
  return true
end

-- Notes the first grant to a key without stamps, which nothing else in the batch may name.
local function quota_begin(q, key)
  if q.limit == 0 or key == '' then return end
  local n = #q.begun
  q.begun[n + 1], q.begun[n + 2] = key, q.stamp
end

-- The time at which key `key`, the i-th that was read, may be granted again; nil: it may be now.
local function quota_refuses(q, i, key)
  if q.limit == 0 or key == '' then return nil end
  local cur, prev = q.new[key] or q.now_stamps[i] or '', q.old_stamps[i]
  local count = #cur / 4
  if prev then
    for p = 1, #prev, 4 do
      if struct.unpack('>I4', prev, p) > q.offset then count = count + 1 end
    end
  end
  if count < q.limit then return nil end
  local begin, times = q.period * q.window, {}
  for p = 1, #cur, 4 do times[#times + 1] = begin + struct.unpack('>I4', cur, p) end
  if prev then
    for p = 1, #prev, 4 do
      local at = struct.unpack('>I4', prev, p)
      if at > q.offset then times[#times + 1] = begin - q.window + at end
    end
  end
  table.sort(times)
  return times[count - q.limit + 1] + q.window
end

-- Notes a grant to key `key`, the i-th that was read. Writes nothing yet.
local function quota_note(q, i, key)
  if q.limit == 0 or key == '' then return end
  local old = q.new[key]
  if not old then
    q.changed[#q.changed + 1] = key
    old = q.now_stamps[i] or ''
  end
  q.new[key] = old .. q.stamp
end

-- Writes what was noted. One call, and at most two more when a period has begun.
local function quota_write(q)
  local pairs_ = q.begun
  for _, key in ipairs(q.changed) do
    local n = #pairs_
    pairs_[n + 1], pairs_[n + 2] = key, q.new[key]
  end
  if #pairs_ == 0 then return false end
  if not q.cur_live then redis.call('UNLINK', q.cur) end
  if not q.prev_live then redis.call('UNLINK', q.prev) end
  redis.call('HSET', q.cur, unpack(pairs_))
  return true
end

-- Writes a stamp at once for a grant at `at`, which is not after `now`, to the hash of its period. For
-- grants that are given back one by one; must not be mixed with quota_note on the same scope.
local function quota_restore(q, key, at, now)
  if q.limit == 0 or key == '' or at <= now - q.window then return end
  local period = math.floor(at / q.window)
  if not q.prev_live then redis.call('UNLINK', q.prev); q.prev_live = true end
  if not q.cur_live then redis.call('UNLINK', q.cur); q.cur_live = true end
  local hash = period == q.period and q.cur or q.prev
  local old = redis.call('HGET', hash, key) or ''
  redis.call('HSET', hash, key, old .. struct.pack('>I4', at - period * q.window))
  q.wrote = true
end

-- Whether the hash of its period has a stamp for a grant at `at`.
local function quota_holds(q, key, at)
  local period = math.floor(at / q.window)
  local hash, live
  if period == q.period then hash, live = q.cur, q.cur_live else hash, live = q.prev, q.prev_live end
  if q.limit == 0 or key == '' or not live then return false end
  local stamps, stamp = redis.call('HGET', hash, key) or '', struct.pack('>I4', at - period * q.window)
  for p = 1, #stamps, 4 do
    if string.sub(stamps, p, p + 3) == stamp then return true end
  end
  return false
end
