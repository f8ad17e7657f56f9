-- Everything on the blacklist that still holds. $1 most rows.
SELECT id, kind, value, expires_at
FROM blacklist
WHERE expires_at IS NULL OR expires_at > now()
ORDER BY id DESC
LIMIT $1
