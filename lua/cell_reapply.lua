-- Gives a closed cell back what PostgreSQL knows of one template beside its receipts: the day's count,
-- quotas and the cursor. Rows come in ascending order of serials, in chunks; the cursor ends behind
-- the last of them. Idempotent: a chunk that begins behind the cursor is passed over as a whole.
--
-- The receipts are written by a plain HSET in the same MULTI, since a step of Lua for each row would cost three
-- times as much. So the caller looks first, with meta and template watched: what is refused is refused
-- there, before anything is written (`src/grant/given.rs`).
--
-- KEYS  1 meta, 2 template, 3-8 quota hashes (user, IP, device: even, odd)
-- ARGV  1 live replid, 2 the epoch of this opening, 3 start and 4 end of the template's local day,
--       5 first and 6 last serial of the chunk ("0" without rows: the cursor is told), 7 how many of its
--       rows are of that day, 8 the latest time among them in ms, 9-14 quota limit and window in ms of
--       user, IP, device, 15 "1", or "0" to look only, 16 rows that may lie in a quota's window;
--       then for each of those: its time in ms, user, IP key, device key (8 bytes or "")
-- Returns {1, cursor}, or {0, word}: "role", "replid", "epoch", "open", "template", "range" (a row
--       beyond the ranges that the template was given: put them first), "clock" (also: more than a
--       second behind a row), "day" (the template has a total per day, and the day is another by now).
-- The cell's clock does not stay behind the rows': a quota could not hold a stamp from the future.
-- Cost: 6 calls, and up to 6 more for a row within a quota's window.

local call = redis.call
local info = call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then return { 0, 'role' } end
if string.match(info, 'master_replid:(%x+)') ~= ARGV[1] then return { 0, 'replid' } end
local m = call('HMGET', KEYS[1], 'epoch', 'open', 'clock', 'up', 'ip', 'dp', 'uw', 'iw', 'dw')
if m[1] ~= ARGV[2] then return { 0, 'epoch' } end
if m[2] == '1' then return { 0, 'open' } end
local t = call('HMGET', KEYS[2], 'st', 'next', 'last', 'more', 'day', 'dc', 'given', 'tl')
if not t[1] or t[1] == '9' then return { 0, 'template' } end

local first, final = tonumber(ARGV[5]), tonumber(ARGV[6])
if final > tonumber(t[7]) then return { 0, 'range' } end
local now = clock(math.max(tonumber(m[3]) or 0, tonumber(ARGV[8])))
if not now then return { 0, 'clock' } end
local day_start, day_end = tonumber(ARGV[3]), tonumber(ARGV[4])
if tonumber(t[8]) > 0 and (now < day_start or now >= day_end) then return { 0, 'day' } end

local nxt, last, more = tonumber(t[2]), tonumber(t[3]), t[4]
if ARGV[15] == '0' or final > 0 and first < nxt then return { 1, string.format('%.0f', nxt) } end
while final > last and more ~= '' do
  local from, to, rest = string.match(more, '^(%d+)-(%d+),(.*)$')
  nxt, last, more = tonumber(from), tonumber(to), rest
end
if final >= nxt then nxt = final + 1 end
local today = tonumber(t[5]) == day_start and tonumber(t[6]) or 0
today = today + tonumber(ARGV[7])

local stamps = tonumber(ARGV[16])
if stamps > 0 then
  local quotas = {}
  for s = 1, 3 do
    -- A window that changes starts empty, see cell_open.
    local seen = m[6 + s] == ARGV[8 + 2 * s] and m[3 + s] or nil
    quotas[s] = quota_at(now, ARGV[7 + 2 * s], ARGV[8 + 2 * s], seen, KEYS[1 + 2 * s], KEYS[2 + 2 * s])
  end
  local at = 16
  for _ = 1, stamps do
    local granted = tonumber(ARGV[at + 1])
    for s = 1, 3 do quota_restore(quotas[s], ARGV[at + 1 + s], granted, now) end
    at = at + 4
  end
  for s, name in ipairs({ 'up', 'ip', 'dp' }) do
    if quotas[s].wrote then
      call('HSET', KEYS[1], name, string.format('%.0f', quotas[s].period),
        ({ 'uw', 'iw', 'dw' })[s], ARGV[8 + 2 * s])
    end
  end
end
call('HSET', KEYS[2], 'next', string.format('%.0f', nxt), 'last', string.format('%.0f', last),
  'more', more, 'day', ARGV[3], 'dc', tostring(today))
call('HSET', KEYS[1], 'clock', string.format('%.0f', now))
return { 1, string.format('%.0f', nxt) }
