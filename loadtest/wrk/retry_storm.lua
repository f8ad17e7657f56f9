-- Clients that ask again: of 1000 claims, REPEATS (200 unless said otherwise) are an earlier claim of this
-- thread with the same key, which must be answered by the same coupon (200) and never by a second one.
local claims = dofile(string.match(debug.getinfo(1, 'S').source, '^@(.-)[^/]*$') .. 'claims.lua')
local template, repeats = claims.templates[1], tonumber(os.getenv('REPEATS') or 200)
local last, turn = 0, 0

claims.script(function()
  -- Spread evenly, not drawn: 1000 turns hold exactly REPEATS repeats.
  local before = math.floor(turn * repeats / 1000)
  turn = turn + 1
  if math.floor(turn * repeats / 1000) == before or last == 0 then last = claims.fresh() end
  return claims.claim(template, last, tostring(last))
end, { ['200'] = true, ['201'] = true, ['410'] = true })
