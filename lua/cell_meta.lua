-- Tells a cell's identity as it is: what a gateway adopts, and an opening begins with. Writes nothing.
--
-- KEYS  1 meta, 2 queue
-- ARGV  none
-- Returns {role, live replid, meta epoch, open, replid of the opening, clock, now in ms,
--       the queue's last entry id ever, entries on the queue, the first of them, time in ms of the oldest grants on it,
--       all fields of meta flat}; what does not exist is "".
-- Cost: 6 calls.

local info = redis.call('INFO', 'replication')
local role = string.match(info, 'role:(%a+)') or ''
local live = string.match(info, 'master_replid:(%x+)') or ''
local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid', 'clock')
local last, length, first, oldest = '', 0, '', ''
if redis.call('EXISTS', KEYS[2]) == 1 then
  local stream = redis.call('XINFO', 'STREAM', KEYS[2])
  for p = 1, #stream, 2 do
    if stream[p] == 'last-generated-id' then last = stream[p + 1] end
    if stream[p] == 'length' then length = stream[p + 1] end
  end
end
if length > 0 then
  -- A marker has no time: an entry behind it has.
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 2)) do
    if first == '' then first = entry[1] end
    if oldest == '' and entry[2][1] == 'g' and #entry[2][2] >= 7 then
      oldest = struct.unpack('>I6', entry[2][2], 2)
    end
  end
end
local time = redis.call('TIME')
return { role, live, m[1] or '', m[2] or '', m[3] or '', m[4] or '',
  time[1] * 1000 + math.floor(time[2] / 1000), last, length, first, oldest,
  redis.call('HGETALL', KEYS[1]) }
