-- Looks claim keys up among the receipts: the replay that comes before a refusal. Writes nothing.
--
-- KEYS  1 meta, then for each template: its hash, its receipts
-- ARGV  1 replid, 2 epoch, 3 templates; for each template its number of claims;
--       then for each claim its user; for each its claim-key hash (8 bytes).
-- Returns {0, word} when the identity does not match; else {1, now in ms, the queue's last entry
--       id, and for each template a string: status (1) and by status
--         0  for each claim 0 (1) or replayed (1) serial (5) epoch (2) time (6)
--         3  the template is not loaded: whether a receipt exists cannot be known
--         9  freed: its receipts are gone for good}
-- Cost: 3 calls, and 2 for each template.

local sub = string.sub
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'open', 'replid', 'clock', 'last')
local wrong = mismatch(meta[1], meta[2], meta[3])
if wrong then return { 0, wrong } end
local now = clock(meta[4])
if not now then return { 0, 'clock' } end

local templates = tonumber(ARGV[3])
local claims = 0
for g = 1, templates do claims = claims + tonumber(ARGV[3 + g]) end
local users = 3 + templates
local keys = users + claims
local replies, i = {}, 0
for g = 1, templates do
  local count = tonumber(ARGV[3 + g])
  local state = redis.call('HGET', KEYS[2 * g], 'st')
  if not state then
    replies[g], i = '\3', i + count
  elseif state == '9' then
    replies[g], i = '\9', i + count
  else
    local got = redis.call('HMGET', KEYS[2 * g + 1], unpack(ARGV, users + i + 1, users + i + count))
    local out = { '\0' }
    for c = 1, count do
      i = i + 1
      local held, found = got[c], '\0'
      if held then
        for p = 1, #held, 21 do
          if sub(held, p + 13, p + 20) == ARGV[keys + i] then
            found = REPLAYED .. sub(held, p, p + 12)
            break
          end
        end
      end
      out[c + 1] = found
    end
    replies[g] = table.concat(out)
  end
end
return { 1, now, meta[5] or '', unpack(replies) }
