-- Decides a batch of claims: stock, limits, quotas, receipts and the grant queue, all or nothing.
--
-- Guarantees: a claim key that was granted is answered with the same serial again, whatever else
-- holds by then; no serial is given twice, no limit or quota is passed; every grant is on the
-- queue, in one entry for the whole batch. Nothing is executed when the identity does not match,
-- the deadline has passed, or the clock is behind. All checks come before the first write, and
-- the first write is the queue's: if it is refused, nothing has changed.
--
-- A claim by somebody who holds nothing yet, of a template that is simply open, is granted in a few
-- lines; every other claim is walked through all checks. What is granted leaves the batch as it came
-- in: whole slices of the records.
--
-- KEYS  1 meta, 2 queue, 3-8 quota hashes (user, IP, device: even, odd),
--       then for each template: its hash, its receipts
-- ARGV  1 replid, 2 epoch, 3 deadline in ms, 4 grants on the queue from which it is full, 5 templates,
--       6 claims under quotas, 7 "1" where no user, IP key or device key stands twice;
--       then for each template: its mark ("d:<id>"), its id (4 bytes), number of claims, start and
--       end of the local day in ms, its claim records one behind the other;
--       then for each claim its user; for each under quotas its IP key and for each under quotas
--       its device key (8 bytes or none: as its record has it).
--       Claims stand in the order of their templates, templates with quotas first.
-- Returns {0, word, now in ms?} when nothing was executed; else {1, now in ms, the queue's last entry id,
--       the batch's entry id or "", and for each template a string: revision (4), stock
--       generation (4), status (1) and by status
--         0, 1  runs of granted serials: number of runs (2), of each: first serial (5), count (2);
--               1: every claim was granted; 0: a record for each claim: outcome (1), then
--               granted: nothing, serials are in order | replayed: serial (5) epoch (2) time (6)
--               user limit: n (1), n times serial (5) epoch (2) time (6) | quota: scope (1), until (6)
--         2     the day has moved: nothing executed for this template
--         3     the template is not loaded}
-- Cost: a constant number of calls, and for each template 4 more. 2 to 3 us a claim.

local call, sub, pack, char = redis.call, string.sub, struct.pack, string.char

local meta = call('HMGET', KEYS[1], 'epoch', 'open', 'replid', 'clock', 'last', 'queued')
local wrong = mismatch(meta[1], meta[2], meta[3])
if wrong then return { 0, wrong } end
local now = clock(meta[4])
if not now then return { 0, 'clock' } end
if now >= tonumber(ARGV[3]) then return { 0, 'deadline', now } end

local templates, under_quota, distinct = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local queued = tonumber(meta[6]) or 0
local full = queued >= tonumber(ARGV[4])

local claims = 0
for g = 1, templates do claims = claims + tonumber(ARGV[7 + 6 * g - 3]) end
local users = 7 + 6 * templates
local ips = users + claims
local devices = ips + under_quota

local quotas
if under_quota > 0 then
  local kept = call('HMGET', KEYS[1], 'ul', 'uw', 'up', 'il', 'iw', 'ip', 'dl', 'dw', 'dp')
  quotas = {
    quota_at(now, kept[1], kept[2], kept[3], KEYS[3], KEYS[4]),
    quota_at(now, kept[4], kept[5], kept[6], KEYS[5], KEYS[6]),
    quota_at(now, kept[7], kept[8], kept[9], KEYS[7], KEYS[8]),
  }
  local from = { users, ips, devices }
  for s = 1, 3 do
    if quotas[s].limit > 0 then quota_read(quotas[s], from[s] + 1, from[s] + under_quota) end
  end
end

-- Epoch and time are the same for every receipt of the batch.
local stamp = pack('>I2I6', tonumber(ARGV[2]), now)
local payload, granted_in, replies = { '\1' .. pack('>I6', now) }, {}, {}

-- The coupons of a user as a list for the answer: n, then n times serial, epoch, time.
local function list_held(held)
  local list = { char(#held / 21) }
  for p = 1, #held, 21 do list[#list + 1] = sub(held, p, p + 12) end
  return table.concat(list)
end

-- The receipt of a claim key among a user's, without the key.
local function replay_of(held, key)
  for p = 1, #held, 21 do
    if sub(held, p + 13, p + 20) == key then return REPLAYED .. sub(held, p, p + 12) end
  end
end

local function quota_refusal(i)
  local keys = { ARGV[users + i], ARGV[ips + i], ARGV[devices + i] }
  for s = 1, 3 do
    local until_ = quota_refuses(quotas[s], i, keys[s])
    if until_ then return QUOTA_EXCEEDED .. char(s) .. pack('>I6', until_) end
  end
end

local i = 0
for g = 1, templates do
  local at = 7 + 6 * (g - 1)
  local mark, id, count, records = ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 6]
  local day_start, day_end = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local t = call('HMGET', KEYS[7 + 2 * g], 'st', 'rev', 'gen', 'sa', 'ea', 'pu', 'pd', 'tl',
    'next', 'last', 'more', 'day', 'dc')
  local status, out, runs = 0, {}, {}
  if not t[1] then
    status, i = 3, i + count
  elseif t[1] == '9' then
    for c = 1, count do out[c] = ENDED end
    i = i + count
  else
    local per_user, per_day, total_day = tonumber(t[6]) * 21, tonumber(t[7]), tonumber(t[8])
    local refusal
    if t[1] ~= '1' then refusal = TEMPLATE_INACTIVE
    elseif now < tonumber(t[4]) then refusal = NOT_STARTED
    elseif now >= tonumber(t[5]) then refusal = ENDED end
    if (per_day > 0 or total_day > 0) and (now < day_start or now >= day_end) then
      status, i = 2, i + count
    else
      local nxt, last, more = tonumber(t[9]), tonumber(t[10]), t[11]
      local today = tonumber(t[12]) == day_start and tonumber(t[13]) or 0
      local got = call('HMGET', KEYS[8 + 2 * g], unpack(ARGV, users + i + 1, users + i + count))
      local easy = distinct and not refusal and not full and per_day == 0 and total_day == 0
      local touched, pairs_, granted, popped = {}, {}, 0, false
      -- The run of serials that is open and where its head will stand; the slice of records that it has so far.
      local run_first, run_next, run_at, slice_from, slice_to = 0, -1, 0, 1, 0
      local p = 1
      for c = 1, count do
        i = i + 1
        local user, held = ARGV[users + i], got[c]
        local size = 10 + #user
        if i <= under_quota then size = size + #ARGV[ips + i] + #ARGV[devices + i] end
        local outcome
        if easy and not held and nxt <= last and (i > under_quota or quota_unseen(quotas, i)) then
          if i <= under_quota then
            quota_begin(quotas[1], user)
            quota_begin(quotas[2], ARGV[ips + i])
            quota_begin(quotas[3], ARGV[devices + i])
          end
        else
          held = touched[user] or held
          if held then outcome = replay_of(held, sub(records, p, p + 7)) end
          if not outcome then
            outcome = refusal
            if not outcome and held then
              if #held >= per_user then
                outcome = USER_LIMIT_REACHED .. list_held(held)
              elseif per_day > 0 then
                local n = 0
                for q = 1, #held, 21 do
                  if struct.unpack('>I6', held, q + 7) >= day_start then n = n + 1 end
                end
                if n >= per_day then outcome = USER_DAILY_LIMIT_REACHED end
              end
            end
            if not outcome and i <= under_quota then outcome = quota_refusal(i) end
            if not outcome and nxt > last then
              if more == '' then
                outcome = SOLD_OUT
              else
                local first, final, rest = string.match(more, '^(%d+)-(%d+),(.*)$')
                nxt, last, more, popped = tonumber(first), tonumber(final), rest, true
              end
            end
            if not outcome and total_day > 0 and today >= total_day then outcome = DAILY_LIMIT_REACHED end
            if not outcome and full then outcome = OVERLOADED end
          end
          if not outcome and i <= under_quota then
            quota_note(quotas[1], i, user)
            quota_note(quotas[2], i, ARGV[ips + i])
            quota_note(quotas[3], i, ARGV[devices + i])
          end
        end
        if outcome then
          out[c] = outcome
        else
          out[c] = GRANTED
          if nxt ~= run_next then
            if run_at > 0 then
              payload[#payload + 1] = sub(records, slice_from, slice_to)
              payload[run_at] = id .. pack('>I5I2', run_first, run_next - run_first)
              runs[#runs + 1] = pack('>I5I2', run_first, run_next - run_first)
            end
            payload[#payload + 1] = ''
            run_at, run_first, slice_from = #payload, nxt, p
          elseif p ~= slice_to + 1 then
            payload[#payload + 1] = sub(records, slice_from, slice_to)
            slice_from = p
          end
          slice_to = p + size - 1
          granted, today = granted + 1, today + 1
          local receipts = pack('>I5', nxt) .. stamp .. sub(records, p, p + 7)
          if held then receipts = held .. receipts end
          if not distinct then touched[user] = receipts end
          pairs_[2 * granted - 1], pairs_[2 * granted] = user, receipts
          nxt = nxt + 1
          run_next = nxt
        end
        p = p + size
      end
      if granted > 0 then
        payload[#payload + 1] = sub(records, slice_from, slice_to)
        payload[run_at] = id .. pack('>I5I2', run_first, run_next - run_first)
        runs[#runs + 1] = pack('>I5I2', run_first, run_next - run_first)
        if granted == count then status, out = 1, {} end
        local fields = { 'next', string.format('%.0f', nxt) }
        if popped then
          fields[3], fields[4], fields[5], fields[6] = 'last', string.format('%.0f', last), 'more', more
        end
        if total_day > 0 then
          local n = #fields
          fields[n + 1], fields[n + 2] = 'day', ARGV[at + 4]
          fields[n + 3], fields[n + 4] = 'dc', tostring(today)
        end
        granted_in[#granted_in + 1] = { mark, KEYS[7 + 2 * g], KEYS[8 + 2 * g], fields, pairs_ }
      end
    end
  end
  local head = pack('>I4I4', tonumber(t[2]) or 0, tonumber(t[3]) or 0) .. char(status)
  if status < 2 then head = head .. pack('>I2', #runs) .. table.concat(runs) end
  replies[g] = head .. table.concat(out)
end

if #granted_in == 0 then return { 1, now, meta[5] or '', '', unpack(replies) } end

local entry = call('XADD', KEYS[2], ARGV[2] .. '-*', 'g', table.concat(payload))
local fields = { 'clock', string.format('%.0f', now), 'last', entry }
for _, group in ipairs(granted_in) do
  queued = queued + #group[5] / 2
  fields[#fields + 1] = group[1]
  fields[#fields + 1] = entry
  call('HSET', group[3], unpack(group[5]))
  call('HSET', group[2], unpack(group[4]))
end
fields[#fields + 1] = 'queued'
fields[#fields + 1] = string.format('%.0f', queued)
if quotas then
  for s, name in ipairs({ 'up', 'ip', 'dp' }) do
    if quota_write(quotas[s]) then
      fields[#fields + 1] = name
      fields[#fields + 1] = string.format('%.0f', quotas[s].period)
    end
  end
end
call('HSET', KEYS[1], unpack(fields))
return { 1, now, entry, entry, unpack(replies) }
