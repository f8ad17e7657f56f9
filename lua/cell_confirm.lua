-- Makes a write on the caller's connection, under its identity. Grants that were made under that identity before
-- stand before it in what replicas receive, so that WAIT behind it, on the same connection, counts for all of them.
-- Called once more behind WAIT, it tells that the count was of this history: a Redis that was demoted and promoted
-- meanwhile has another replication id.
--
-- KEYS  1 meta
-- ARGV  1 replid, 2 epoch
-- Returns {0, word} when the identity does not match, else {1}
-- Cost: 3 calls.

local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid')
local wrong = mismatch(m[1], m[2], m[3])
if wrong then return { 0, wrong } end
redis.call('HSET', KEYS[1], 'confirmed', ARGV[2])
return { 1 }
