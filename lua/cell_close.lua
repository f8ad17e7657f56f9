-- Closes a cell under a new epoch: grants stop, and every lower epoch is refused from now on.
-- The new epoch is the token of all that follows in this opening.
--
-- KEYS  1 meta
-- ARGV  1 the new epoch, 2 live replid as read at the start of the opening
-- Returns {1}, or {0, word}: "role" or "replid" (not the Redis that the opening began with),
--       "epoch" (this or a higher epoch was here already: someone else opens).
-- Cost: 3 calls.

local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then return { 0, 'role' } end
if string.match(info, 'master_replid:(%x+)') ~= ARGV[2] then return { 0, 'replid' } end
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch')) or 0
if epoch >= tonumber(ARGV[1]) then return { 0, 'epoch' } end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'open', '0')
return { 1 }
