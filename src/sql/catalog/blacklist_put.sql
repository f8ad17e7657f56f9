-- Puts a user, address or device on the blacklist, or changes why and how long; `is_new` tells which. $1 kind, $2
-- value, $3 reason, $4 author, $5 expiry.
INSERT INTO blacklist (kind, value, reason, author_key_id, expires_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (kind, value) DO UPDATE
SET reason = excluded.reason, author_key_id = excluded.author_key_id, expires_at = excluded.expires_at,
    created_at = now()
RETURNING id, kind, value, reason, author_key_id, expires_at, created_at, xmax = 0 AS is_new
