-- One page of API keys by id. $1 last id seen, $2 most rows, $3 owner's type and $4 owner's id, or null for all.
SELECT id, name, role, owner_type, owner_id, created_at, created_by, revoked_at
FROM api_keys
WHERE id > $1 AND ($3::text IS NULL OR (owner_type = $3 AND owner_id = $4))
ORDER BY id
LIMIT $2
