-- Many templates in one sale: TEMPLATES=1,2,3 are claimed in turn, each by users of its own.
local claims = dofile(string.match(debug.getinfo(1, 'S').source, '^@(.-)[^/]*$') .. 'claims.lua')

claims.script(function()
  local user = claims.fresh()
  return claims.claim(claims.templates[user % #claims.templates + 1], user)
end, { ['201'] = true, ['410'] = true })
