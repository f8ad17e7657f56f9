-- Reads entries behind one, for the flusher. Writes nothing.
--
-- KEYS  1 meta, 2 queue
-- ARGV  1 replid, 2 epoch, 3 the entry id to read behind, 4 most entries
-- Returns {0, word} when the identity does not match, else {1, now in ms, entries on the queue,
--       the entries as XRANGE gives them}
-- Cost: 5 calls.

local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid')
local wrong = mismatch(m[1], m[2], m[3])
if wrong then return { 0, wrong } end
local time = redis.call('TIME')
return { 1, time[1] * 1000 + math.floor(time[2] / 1000), redis.call('XLEN', KEYS[2]),
  redis.call('XRANGE', KEYS[2], '(' .. ARGV[3], '+', 'COUNT', ARGV[4]) }
