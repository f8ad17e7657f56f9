-- A flash sale: every claim by a new user, one claim each, until the stock is gone and beyond.
--   DATA=data wrk -t2 -c64 -d10 -s loadtest/wrk/flash_sale.lua http://127.0.0.1:8080
local claims = dofile(string.match(debug.getinfo(1, 'S').source, '^@(.-)[^/]*$') .. 'claims.lua')
local template = claims.templates[1]

claims.script(function()
  return claims.claim(template, claims.fresh())
end, { ['201'] = true, ['410'] = true })
