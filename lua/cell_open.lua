-- Opens a cell that this epoch closed: writes the marker entry, after which Redis itself refuses
-- entries of older epochs, and records which Redis it is that was opened.
--
-- KEYS  1 meta, 2 queue, 3-8 quota hashes (user, IP, device: even, odd)
-- ARGV  1 live replid as read at the start of the opening, 2 the epoch, 3-8 quota limit and window
--       in ms of user, IP, device, 9 the installation's name
-- Returns {1, now in ms, marker's entry id}, or {0, word}: "role", "replid", "epoch", "open"
--       (open already), "clock".
-- Quotas whose window changed start empty: the stamps of the old window cannot be read in the new.
-- Cost: up to 16 calls.

local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then return { 0, 'role' } end
if string.match(info, 'master_replid:(%x+)') ~= ARGV[1] then return { 0, 'replid' } end
local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'clock', 'uw', 'iw', 'dw')
if m[1] ~= ARGV[2] then return { 0, 'epoch' } end
if m[2] == '1' then return { 0, 'open' } end
local now = clock(m[3])
if not now then return { 0, 'clock' } end

local marker = redis.call('XADD', KEYS[2], ARGV[2] .. '-0', 'm', ARGV[2])
local fields = { 'open', '1', 'replid', ARGV[1], 'clock', string.format('%.0f', now), 'last', marker,
  'ul', ARGV[3], 'uw', ARGV[4], 'il', ARGV[5], 'iw', ARGV[6], 'dl', ARGV[7], 'dw', ARGV[8], 'install', ARGV[9] or '' }
for s, name in ipairs({ 'up', 'ip', 'dp' }) do
  if m[3 + s] and m[3 + s] ~= ARGV[2 + 2 * s] then
    redis.call('UNLINK', KEYS[1 + 2 * s], KEYS[2 + 2 * s])
    redis.call('HDEL', KEYS[1], name)
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('HDEL', KEYS[1], 'wiping')
return { 1, now, marker }
