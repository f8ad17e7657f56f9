-- The storm after the sale, on a template whose stock is gone: the latch refuses, half of the claims
-- bring a key and are looked up first. KEYS=0 or KEYS=1 makes all of them the one or the other kind.
local claims = dofile(string.match(debug.getinfo(1, 'S').source, '^@(.-)[^/]*$') .. 'claims.lua')
local template, keys = claims.templates[1], os.getenv('KEYS')

claims.script(function()
  local user = claims.fresh()
  local keyed = keys == '1' or (keys ~= '0' and user % 2 == 0)
  return claims.claim(template, user, keyed and tostring(user) or nil)
end, { ['201'] = true, ['410'] = true })
