-- What every wrk script of Floodgate stands on: who claims, which bytes go out, what came back.
--
-- Settings are environment variables; README.md beside this folder lists them. Each wrk thread has
-- users of its own, so no claim is a repeat unless a script makes it one.
--
-- Not itself a script: flash_sale.lua and its neighbours load it.

local M = {}

local function env(name, otherwise)
  local value = os.getenv(name)
  if value == nil or value == '' then return otherwise end
  return value
end

local function number(name, otherwise)
  local value = tonumber(env(name, otherwise))
  if not value then error(name .. '=' .. env(name) .. ' is no number') end
  return value
end

M.templates = {}
for id in string.gmatch(env('TEMPLATES', env('TEMPLATE', '1')), '%d+') do
  M.templates[#M.templates + 1] = id
end

-- Counting answers by status costs wrk a third of its speed: COUNT=0 leaves it to the gateway's metrics.
local counting = env('COUNT', '1') ~= '0'
local run = env('PREFIX', 'u')

-- === Before the threads run (wrk's own state) ===

local threads = {}

function M.setup(thread)
  threads[#threads + 1] = thread
  thread:set('number', #threads)
end

-- === In a thread ===

local prefix, identity, tokens, user = '', nil, nil, 0

-- Tokens are signed by the project's own command, as many as a thread may need; wrk has no SHA-256.
local function sign(count)
  local source = env('DATA') and ("--data '" .. env('DATA') .. "'") or ''
  local command = string.format("%s token %s --users %d --prefix '%s'",
    env('FLOODGATE', 'target/release/floodgate'), source, count, prefix)
  local made, pipe = {}, assert(io.popen(command))
  for line in pipe:lines() do made[#made + 1] = line end
  pipe:close()
  if #made ~= count then error('no tokens from: ' .. command) end
  return made
end

local function read(file)
  local made = {}
  for line in io.lines(file) do made[#made + 1] = line end
  return made
end

-- Who the requests come from: TRUSTED_HEADER=1, TOKENS=<file>, or tokens made on the spot for USERS users.
function M.init()
  prefix = string.format('%s%d-', run, wrk.thread:get('number'))
  if env('TRUSTED_HEADER') then
    identity = function(n) return string.format('x-user-id: %s%09d\r\n', prefix, n) end
    return
  end
  local file = env('TOKENS')
  tokens = file and read(file) or sign(number('USERS', 50000))
  -- Threads share a file: each begins elsewhere.
  local share = file and (wrk.thread:get('number') - 1) * math.floor(#tokens / number('THREADS', 2)) or 0
  identity = function(n) return 'authorization: Bearer ' .. tokens[(share + n - 1) % #tokens + 1] .. '\r\n' end
end

-- The next user of this thread.
function M.fresh()
  user = user + 1
  return user
end

local places = env('PLACES')

-- A claim's bytes. `key`: its claim key, or nil.
function M.claim(template, n, key)
  local line = key and ('idempotency-key: ' .. prefix .. key .. '\r\n') or ''
  if places then
    -- An address and a device for each user: a gateway believes the first only from a trusted proxy.
    line = string.format('%sx-forwarded-for: 10.%d.%d.%d\r\nx-device-id: d-%s%09d\r\n', line,
      (n / 65536) % 256, (n / 256) % 256, n % 256, prefix, n)
  end
  return 'POST /v1/templates/' .. template .. '/claims HTTP/1.1\r\nhost: ' .. wrk.host .. '\r\n'
    .. identity(n) .. line .. 'content-length: 0\r\n\r\n'
end

-- A global of the thread, so that wrk's own state can read it.
statuses = {}

if counting then
  function M.response(status)
    local word = tostring(status)
    statuses[word] = (statuses[word] or 0) + 1
  end
end

-- === After the threads have run ===

-- Prints what came back. `allowed`: the statuses that a script may meet; any other fails the run, and
-- so does a number of grants that is not EXPECT_GRANTED.
function M.done(allowed)
  return function(summary, latency)
    local total, wrong = {}, {}
    for _, thread in ipairs(threads) do
      for status, count in pairs(thread:get('statuses') or {}) do
        total[status] = (total[status] or 0) + count
      end
    end
    local order = {}
    for status in pairs(total) do order[#order + 1] = status end
    table.sort(order)
    for _, status in ipairs(order) do
      io.write(string.format('status %s: %d\n', status, total[status]))
      if not allowed[status] then wrong[#wrong + 1] = 'status ' .. status end
    end
    local errors = summary.errors
    for _, kind in ipairs({ 'connect', 'read', 'write', 'timeout' }) do
      if errors[kind] > 0 then wrong[#wrong + 1] = string.format('%d errors of %s', errors[kind], kind) end
    end
    local expected = env('EXPECT_GRANTED')
    if counting and expected and (total['201'] or 0) ~= tonumber(expected) then
      wrong[#wrong + 1] = string.format('%d grants instead of %s', total['201'] or 0, expected)
    end
    -- Of all, those with a status of 400 and more.
    io.write(string.format('answers: %d, refused: %d, in us: %d\n', summary.requests, errors.status, summary.duration))
    io.write(string.format('claims a second: %.0f\n', summary.requests / summary.duration * 1e6))
    io.write('latency is of a closed loop: a ceiling, not what shoppers see; see k6 or floodgate-load open\n')
    if #wrong > 0 then
      io.write('FAILED: ' .. table.concat(wrong, ', ') .. '\n')
      os.exit(1)
    end
  end
end

-- Makes the functions that wrk calls. `next_request` gives the next claim's bytes.
function M.script(next_request, allowed)
  setup, init, request, response, done = M.setup, M.init, next_request, M.response, M.done(allowed)
end

return M
