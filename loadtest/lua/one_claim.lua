#!lua
-- A claim as one would write it first, for the peers of the bench: one coupon a user, and a queue.
--
-- KEYS  1 stock (a number), 2 receipts (hash: user -> serial), 3 queue (stream)
-- ARGV  1 user
-- Returns the serial that the user was given; 0: sold out; -1: the user has one.
-- Cost: four calls.

local user = ARGV[1]
if redis.call('HEXISTS', KEYS[2], user) == 1 then return -1 end
local left = redis.call('DECR', KEYS[1])
if left < 0 then return 0 end
redis.call('HSET', KEYS[2], user, left)
redis.call('XADD', KEYS[3], '*', 'u', user, 's', left)
return left + 1
