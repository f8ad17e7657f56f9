-- Reads what a comparison with PostgreSQL needs of one template: where its stock stands, and the receipts
-- and quota stamps of some users. Writes nothing.
--
-- KEYS  1 meta, 2 template, 3 receipts, 4-9 quota hashes (user, IP, device: even, odd)
-- ARGV  1 replid, 2 epoch, 3 the template's mark ("d:<id>"), 4 users, 5 rows under quotas;
--       then the users; then for each of those rows its user; for each its IP key; for each its device key
-- Returns {0, word} when the identity does not match; else {1, now in ms, the template's mark or "",
--       {st, rev, next, last, more, given, day, dc}, the users' receipts (a string or nil each), and for
--       user, IP and device {limit, window, period, stamps of this period for each row, of the one before}}
-- Cost: 4 calls, and up to 6 more where there are rows under quotas.

local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid', 'clock', ARGV[3],
  'ul', 'uw', 'up', 'il', 'iw', 'ip', 'dl', 'dw', 'dp')
local wrong = mismatch(m[1], m[2], m[3])
if wrong then return { 0, wrong } end
local now = clock(m[4])
if not now then return { 0, 'clock' } end

local users, rows = tonumber(ARGV[4]), tonumber(ARGV[5])
local template = redis.call('HMGET', KEYS[2], 'st', 'rev', 'next', 'last', 'more', 'given', 'day', 'dc')
local receipts = users > 0 and redis.call('HMGET', KEYS[3], unpack(ARGV, 6, 5 + users)) or {}
local reply = { 1, now, m[5] or '', template, receipts }
for s = 1, 3 do
  local q = quota_at(now, m[3 + 3 * s], m[4 + 3 * s], m[5 + 3 * s], KEYS[2 + 2 * s], KEYS[3 + 2 * s])
  local stamps, before = {}, {}
  if rows > 0 and q.limit > 0 then
    local from = 5 + users + (s - 1) * rows
    quota_read(q, from + 1, from + rows)
    for r = 1, rows do stamps[r], before[r] = q.now_stamps[r] or '', q.old_stamps[r] or '' end
  end
  reply[5 + s] = { q.limit, q.window, q.period, stamps, before }
end
return reply
