-- Takes an entry off the blacklist. $1 id.
DELETE FROM blacklist WHERE id = $1
RETURNING id, kind, value, reason, author_key_id, expires_at, created_at
