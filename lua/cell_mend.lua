-- Gives an open cell back single grants that PostgreSQL has and Redis lost: receipts, quota stamps, the
-- cursor's place behind them, and the day's count. Idempotent, and it takes nothing away: what is there stays.
--
-- KEYS  1 meta, 2 template, 3 receipts, 4-9 quota hashes (user, IP, device: even, odd)
-- ARGV  1 replid, 2 epoch, 3 start of the template's local day, 4 the least that its count may be ("0": as it
--       is), 5 rows; then for each row, in ascending order of serials: user ("" for one that is unknown),
--       receipt (21 bytes), whether it counts in quotas ("1" or "0"), IP key, device key (8 bytes or "")
-- Returns {0, word} (also "template": not loaded, or freed; "range": a row beyond the stock that was given), or
--       {1, receipts given back}.
-- Cost: a constant number of calls, and up to 8 for a row.

local call, sub = redis.call, string.sub
local m = call('HMGET', KEYS[1], 'epoch', 'open', 'replid', 'clock', 'ul', 'uw', 'up', 'il', 'iw', 'ip', 'dl', 'dw', 'dp')
local wrong = mismatch(m[1], m[2], m[3])
if wrong then return { 0, wrong } end
local now = clock(m[4])
if not now then return { 0, 'clock' } end
local t = call('HMGET', KEYS[2], 'st', 'next', 'last', 'more', 'given', 'day', 'dc')
if not t[1] or t[1] == '9' then return { 0, 'template' } end
local rows = tonumber(ARGV[5])
for r = 1, rows do
  if struct.unpack('>I5', ARGV[5 + 5 * r - 3]) > tonumber(t[5]) then return { 0, 'range' } end
end

local quotas = {}
for s = 1, 3 do
  quotas[s] = quota_at(now, m[2 + 3 * s], m[3 + 3 * s], m[4 + 3 * s], KEYS[2 + 2 * s], KEYS[3 + 2 * s])
end
local nxt, last, more = tonumber(t[2]), tonumber(t[3]), t[4]
local given = 0
for r = 1, rows do
  local at = 5 + 5 * (r - 1)
  local user, receipt = ARGV[at + 1], ARGV[at + 2]
  local serial = struct.unpack('>I5', receipt)
  while serial > last and more ~= '' do
    local first, final, rest = string.match(more, '^(%d+)-(%d+),(.*)$')
    nxt, last, more = tonumber(first), tonumber(final), rest
  end
  if serial >= nxt then nxt = serial + 1 end
  if user ~= '' then
    local held, there = call('HGET', KEYS[3], user) or '', false
    for p = 1, #held, 21 do
      if sub(held, p, p + 4) == sub(receipt, 1, 5) then there = true end
    end
    if not there then
      call('HSET', KEYS[3], user, held .. receipt)
      given = given + 1
    end
    if ARGV[at + 3] == '1' then
      local granted = struct.unpack('>I6', receipt, 8)
      if granted <= now then
        for s, key in ipairs({ user, ARGV[at + 4], ARGV[at + 5] }) do
          if not quota_holds(quotas[s], key, granted) then quota_restore(quotas[s], key, granted, now) end
        end
      end
    end
  end
end
local fields = { 'next', string.format('%.0f', nxt), 'last', string.format('%.0f', last), 'more', more }
local least = tonumber(ARGV[4])
local counted = t[6] == ARGV[3] and tonumber(t[7]) or 0
if least > counted then
  for _, word in ipairs({ 'day', ARGV[3], 'dc', ARGV[4] }) do fields[#fields + 1] = word end
end
call('HSET', KEYS[2], unpack(fields))
for s, name in ipairs({ 'up', 'ip', 'dp' }) do
  if quotas[s].wrote then call('HSET', KEYS[1], name, string.format('%.0f', quotas[s].period)) end
end
return { 1, given }
