-- The cell's identity. Every script that touches grants takes the replication id and the epoch
-- that its caller believes in as ARGV[1] and ARGV[2], and executes nothing where they are not
-- those of this Redis, now: it may have restarted with less, been demoted, or been replaced.
-- `epoch`, `open` and `replid` are the fields of the cell's meta hash.
-- Returns nil, or one word for what does not match. Cost: one INFO, 2 to 5 us.
local function mismatch(epoch, open, replid)
  local info = redis.call('INFO', 'replication')
  if not string.find(info, 'role:master', 1, true) then return 'role' end
  if ARGV[1] ~= replid or not string.find(info, 'master_replid:' .. ARGV[1], 1, true) then return 'replid' end
  if epoch ~= ARGV[2] then return 'epoch' end
  if open ~= '1' then return 'closed' end
  return nil
end
