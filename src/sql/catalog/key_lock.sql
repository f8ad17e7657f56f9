-- Reads an API key and keeps others from revoking it. $1 id, $2 owner's type and $3 owner's id, or null for all.
SELECT id, name, role, owner_type, owner_id, created_at, created_by, revoked_at
FROM api_keys
WHERE id = $1 AND ($2::text IS NULL OR (owner_type = $2 AND owner_id = $3))
FOR UPDATE
