-- The cell's clock: Redis TIME in ms, never before the latest time that the cell has decided by.
-- Returns nil when the machine's clock is more than a second behind that.
local function clock(latest)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  latest = tonumber(latest) or 0
  if now < latest - 1000 then return nil end
  if now < latest then return latest end
  return now
end
