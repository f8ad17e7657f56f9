-- Frees a template's keys. Final: a tombstone stays, so that missing receipts are never read as
-- "this user has none".
--
-- KEYS  1 meta, 2 template, 3 receipts
-- ARGV  1 replid, 2 epoch, 3 revision, 4 the template's mark ("d:<id>"), 5 the watermark's epoch
--       and 6 sequence
-- Returns {0, word} (also "unflushed": its last entry lies behind the watermark), or {1}.
-- Cost: 6 calls; UNLINK frees in the background.

local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid', ARGV[4])
local wrong = mismatch(m[1], m[2], m[3])
if wrong then return { 0, wrong } end
if m[4] then
  local epoch, seq = string.match(m[4], '^(%d+)-(%d+)$')
  epoch, seq = tonumber(epoch), tonumber(seq)
  local wepoch, wseq = tonumber(ARGV[5]), tonumber(ARGV[6])
  if epoch > wepoch or (epoch == wepoch and seq > wseq) then return { 0, 'unflushed' } end
end
redis.call('UNLINK', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'st', '9', 'rev', ARGV[3])
redis.call('HDEL', KEYS[1], ARGV[4])
return { 1 }
