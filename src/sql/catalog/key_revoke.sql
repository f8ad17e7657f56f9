-- Revokes an API key; a repeat keeps the first time. $1 id, $2 owner's type and $3 owner's id, or null for all.
UPDATE api_keys
SET revoked_at = coalesce(revoked_at, now())
WHERE id = $1 AND ($2::text IS NULL OR (owner_type = $2 AND owner_id = $3))
