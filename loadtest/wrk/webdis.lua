-- For the bench alone: a claim through webdis, whose command stands in the URL (WEBDIS_PATH, then the user).
local claims = dofile(string.match(debug.getinfo(1, 'S').source, '^@(.-)[^/]*$') .. 'claims.lua')
local path = os.getenv('WEBDIS_PATH')

claims.script(function()
  return string.format('GET %s/u%d-%010d HTTP/1.1\r\nhost: %s\r\n\r\n', path, wrk.thread:get('number'), claims.fresh(),
    wrk.host)
end, { ['200'] = true })
