-- Gives a closed cell back what PostgreSQL knows of one template: receipts, the day's count,
-- quotas and the cursor. Idempotent: serials below the cursor are passed over.
--
-- Rows come in ascending order of serials, in chunks. The cursor ends behind the last of them.
--
-- KEYS  1 meta, 2 template, 3 receipts, 4-9 quota hashes (user, IP, device: even, odd)
-- ARGV  1 live replid, 2 the epoch of this opening, 3 start and 4 end of the template's local day,
--       5 whether the template counts in quotas ("1" or "0"), 6-11 quota limit and window in ms of
--       user, IP, device, 12 number of rows; then for each row: user ("" for a row set aside
--       whose user is unknown), receipt (21 bytes), IP key, device key (8 bytes or "")
-- Returns {1, cursor}, or {0, word}: "role", "replid", "epoch", "open", "template", "range" (a row
--       beyond the ranges that the template was given: put them first), "clock" (also: more than a
--       second behind a row), "day" (the template has a total per day, and the day is another by now).
-- The cell's clock does not stay behind the rows': a quota could not hold a stamp from the future.
-- Cost: a constant number of calls, and up to 6 more for a row within a quota's window.

local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then return { 0, 'role' } end
if string.match(info, 'master_replid:(%x+)') ~= ARGV[1] then return { 0, 'replid' } end
local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'clock', 'up', 'ip', 'dp', 'uw', 'iw', 'dw')
if m[1] ~= ARGV[2] then return { 0, 'epoch' } end
if m[2] == '1' then return { 0, 'open' } end
local t = redis.call('HMGET', KEYS[2], 'st', 'next', 'last', 'more', 'day', 'dc', 'given', 'tl')
if not t[1] or t[1] == '9' then return { 0, 'template' } end

local rows = tonumber(ARGV[12])
local latest = tonumber(m[3]) or 0
for r = 1, rows do
  local receipt = ARGV[12 + 4 * r - 2]
  if struct.unpack('>I5', receipt) > tonumber(t[7]) then return { 0, 'range' } end
  latest = math.max(latest, struct.unpack('>I6', receipt, 8))
end
local now = clock(latest)
if not now then return { 0, 'clock' } end
local day_start, day_end = tonumber(ARGV[3]), tonumber(ARGV[4])
if tonumber(t[8]) > 0 and (now < day_start or now >= day_end) then return { 0, 'day' } end

local nxt, last, more = tonumber(t[2]), tonumber(t[3]), t[4]
local today = tonumber(t[5]) == day_start and tonumber(t[6]) or 0

local quotas = {}
for s = 1, 3 do
  -- A window that changes starts empty, see cell_open.
  local seen = m[6 + s] == ARGV[5 + 2 * s] and m[3 + s] or nil
  quotas[s] = quota_at(now, ARGV[4 + 2 * s], ARGV[5 + 2 * s], seen, KEYS[2 + 2 * s], KEYS[3 + 2 * s])
end

-- Whether the i-th receipt's serial lies at or behind the cursor; moves the cursor behind it.
local function passes(serial)
  while serial > last and more ~= '' do
    local first, final, rest = string.match(more, '^(%d+)-(%d+),(.*)$')
    nxt, last, more = tonumber(first), tonumber(final), rest
  end
  if serial < nxt then return false end
  nxt = serial + 1
  return true
end

-- Adds a stamp for a grant at `at`, which is not after `now`, to the hash of its period.
local function stamp(q, key, at)
  if q.limit == 0 or key == '' or at <= now - q.window then return end
  local period = math.floor(at / q.window)
  local hash
  if period == q.period then
    if not q.cur_live then redis.call('UNLINK', q.cur); q.cur_live = true end
    hash = q.cur
  else
    hash = q.prev
  end
  if not q.prev_live then redis.call('UNLINK', q.prev); q.prev_live = true end
  if not q.cur_live then redis.call('UNLINK', q.cur); q.cur_live = true end
  local old = redis.call('HGET', hash, key) or ''
  redis.call('HSET', hash, key, old .. struct.pack('>I4', at - period * q.window))
  q.wrote = true
end

local users, receipts, order = {}, {}, {}
for r = 1, rows do users[r] = ARGV[12 + 4 * r - 3] end
local got = rows > 0 and redis.call('HMGET', KEYS[3], unpack(users)) or {}
for r = 1, rows do
  local at = 12 + 4 * (r - 1)
  local user, receipt = ARGV[at + 1], ARGV[at + 2]
  if passes(struct.unpack('>I5', receipt)) then
    local granted = struct.unpack('>I6', receipt, 8)
    if granted >= day_start and granted < day_end then today = today + 1 end
    if user ~= '' then
      if not receipts[user] then
        receipts[user] = got[r] or ''
        order[#order + 1] = user
      end
      receipts[user] = receipts[user] .. receipt
      if ARGV[5] == '1' then
        stamp(quotas[1], user, granted)
        stamp(quotas[2], ARGV[at + 3], granted)
        stamp(quotas[3], ARGV[at + 4], granted)
      end
    end
  end
end

if #order > 0 then
  local pairs_ = {}
  for i, user in ipairs(order) do pairs_[2 * i - 1], pairs_[2 * i] = user, receipts[user] end
  redis.call('HSET', KEYS[3], unpack(pairs_))
end
redis.call('HSET', KEYS[2], 'next', string.format('%.0f', nxt), 'last', string.format('%.0f', last),
  'more', more, 'day', ARGV[3], 'dc', tostring(today))
redis.call('HSET', KEYS[1], 'clock', string.format('%.0f', now))
for s, name in ipairs({ 'up', 'ip', 'dp' }) do
  if quotas[s].wrote then
    redis.call('HSET', KEYS[1], name, string.format('%.0f', quotas[s].period),
      ({ 'uw', 'iw', 'dw' })[s], ARGV[5 + 2 * s])
  end
end
return { 1, string.format('%.0f', nxt) }
