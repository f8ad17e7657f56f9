-- Trims the queue to the watermark, after the commit that stored what is trimmed.
--
-- KEYS  1 meta, 2 queue
-- ARGV  1 replid, 2 epoch, 3 the watermark's epoch and 4 sequence, 5 the first id to keep;
--       then the marks ("d:<id>") of the templates that the trimmed entries granted
-- Returns {0, word} when the identity does not match, else {1, entries trimmed}
-- Cost: 5 calls.

local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid', unpack(ARGV, 6))
local wrong = mismatch(m[1], m[2], m[3])
if wrong then return { 0, wrong } end
local trimmed = redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[5])
local wepoch, wseq, clean = tonumber(ARGV[3]), tonumber(ARGV[4]), {}
for a = 6, #ARGV do
  local mark = m[a - 2]
  if mark then
    local epoch, seq = string.match(mark, '^(%d+)-(%d+)$')
    epoch, seq = tonumber(epoch), tonumber(seq)
    if epoch < wepoch or (epoch == wepoch and seq <= wseq) then clean[#clean + 1] = ARGV[a] end
  end
end
if #clean > 0 then redis.call('HDEL', KEYS[1], unpack(clean)) end
return { 1, trimmed }
