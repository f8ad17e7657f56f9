-- Reads templates as the cell has them, and what one user holds of each. Writes nothing.
-- Serves the wallet, the claim center, the probe of the sold-out latch, and publication's read-back.
--
-- KEYS  1 meta, then for each template: its hash, its receipts
-- ARGV  1 replid, 2 epoch, 3 user, or "" for none
-- Returns {0, word} when the identity does not match; else {1, now in ms, and for each template
--       a list: st, rev, gen, sa, ea, pu, pd, tl, qt, next, last, more, given, day, dc (strings
--       or nil) and the user's receipts ("" for none)}
-- Cost: 3 calls, and 2 for each template.

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid', 'clock')
local wrong = mismatch(meta[1], meta[2], meta[3])
if wrong then return { 0, wrong } end
local now = clock(meta[4])
if not now then return { 0, 'clock' } end

local reply = { 1, now }
for k = 2, #KEYS, 2 do
  local t = redis.call('HMGET', KEYS[k], 'st', 'rev', 'gen', 'sa', 'ea', 'pu', 'pd', 'tl', 'qt',
    'next', 'last', 'more', 'given', 'day', 'dc')
  t[16] = ARGV[3] ~= '' and redis.call('HGET', KEYS[k + 1], ARGV[3]) or ''
  reply[#reply + 1] = t
end
return reply
