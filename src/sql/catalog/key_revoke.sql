-- Revokes an API key; a repeat keeps the first time. $1 id.
UPDATE api_keys
SET revoked_at = coalesce(revoked_at, now())
WHERE id = $1
RETURNING id, name, role, owner_type, owner_id, created_at, created_by, revoked_at
