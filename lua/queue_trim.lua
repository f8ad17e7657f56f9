-- Trims the queue to the watermark, after the commit that stored what is trimmed.
--
-- KEYS  1 meta, 2 queue
-- ARGV  1 replid, 2 epoch, 3 the watermark's epoch and 4 sequence, 5 the first id to keep;
--       6 grants in what is trimmed; then the marks ("d:<id>") of the templates that the trimmed entries granted
-- Returns {0, word} when the identity does not match, else {1, entries trimmed}
-- Cost: 6 calls.

local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid', 'queued', unpack(ARGV, 7))
local wrong = mismatch(m[1], m[2], m[3])
if wrong then return { 0, wrong } end
local trimmed = redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[5])
local wepoch, wseq, clean = tonumber(ARGV[3]), tonumber(ARGV[4]), {}
for a = 7, #ARGV do
  local mark = m[a - 2]
  if mark then
    local epoch, seq = string.match(mark, '^(%d+)-(%d+)$')
    epoch, seq = tonumber(epoch), tonumber(seq)
    if epoch < wepoch or (epoch == wepoch and seq <= wseq) then clean[#clean + 1] = ARGV[a] end
  end
end
-- Where a flusher stored entries and died before it trimmed them, the count stays too high: it is
-- set right whenever the queue is empty.
local queued = (tonumber(m[4]) or 0) - tonumber(ARGV[6])
if queued < 0 or redis.call('XLEN', KEYS[2]) == 0 then queued = 0 end
redis.call('HSET', KEYS[1], 'queued', string.format('%.0f', queued))
if #clean > 0 then redis.call('HDEL', KEYS[1], unpack(clean)) end
return { 1, trimmed }
