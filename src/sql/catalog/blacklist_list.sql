-- One page of the blacklist by id. $1 last id seen, $2 most rows, $3 kind, or null.
SELECT id, kind, value, reason, author_key_id, expires_at, created_at
FROM blacklist
WHERE id > $1 AND ($3::text IS NULL OR kind = $3)
ORDER BY id
LIMIT $2
