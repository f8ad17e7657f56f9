-- Brings a template to a revision, and gives it the stock ranges that it does not have yet.
-- Idempotent: an older or equal revision changes no field, a range given before is passed over.
-- State 9, given by an opening alone, makes a tombstone of whatever is there: a Redis that came
-- back with less may hold a template that was freed.
--
-- KEYS  1 meta, 2 template; 3 receipts for state 9
-- ARGV  1 replid, 2 epoch, 3 "1" where the cell must be open, "0" where an opening holds it closed, "2" where it
--       must be open and the fields are set though it has this revision: someone has altered them;
--       4 state, 5 revision, 6 stock generation, 7 window start and 8 end in ms, 9 per user,
--       10 per user and day, 11 total per day, 12 quotas ("1" or "0");
--       then first and last serial of each range, ascending
-- Returns {0, word} ("role", "replid", "epoch", "closed", "open", "freed"), or {1, the revision held}.
-- Cost: 4 calls.

local m = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid')
if ARGV[3] ~= '0' then
  local wrong = mismatch(m[1], m[2], m[3])
  if wrong then return { 0, wrong } end
else
  local wrong = mismatch(m[1], '1', ARGV[1])
  if wrong then return { 0, wrong } end
  if m[2] == '1' then return { 0, 'open' } end
end

local t = redis.call('HMGET', KEYS[2], 'st', 'rev', 'next', 'last', 'more', 'given')
if t[1] == '9' then return { 0, 'freed' } end
if ARGV[4] == '9' then
  redis.call('UNLINK', KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[2], 'st', '9', 'rev', ARGV[5])
  return { 1, tonumber(ARGV[5]) }
end
local fields = {}
local held = tonumber(t[2]) or 0
if tonumber(ARGV[5]) > held or (ARGV[3] == '2' and tonumber(ARGV[5]) == held) then
  fields = { 'st', ARGV[4], 'rev', ARGV[5], 'gen', ARGV[6], 'sa', ARGV[7], 'ea', ARGV[8], 'pu', ARGV[9],
    'pd', ARGV[10], 'tl', ARGV[11], 'qt', ARGV[12] }
end

local given, more, added = tonumber(t[6]) or 0, t[5] or '', false
for a = 13, #ARGV, 2 do
  if tonumber(ARGV[a]) > given then
    more, given, added = more .. ARGV[a] .. '-' .. ARGV[a + 1] .. ',', tonumber(ARGV[a + 1]), true
  end
end
if added or not t[3] then
  local nxt, last = t[3] or '1', t[4] or '0'
  for _, pair in ipairs({ { 'next', nxt }, { 'last', last }, { 'more', more }, { 'given', string.format('%.0f', given) } }) do
    fields[#fields + 1] = pair[1]
    fields[#fields + 1] = pair[2]
  end
end
if #fields > 0 then redis.call('HSET', KEYS[2], unpack(fields)) end
return { 1, tonumber(redis.call('HGET', KEYS[2], 'rev')) }
