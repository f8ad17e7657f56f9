-- Stores a new API key. $1 name, $2 role, $3 owner's type, $4 owner's id, $5 SHA-256 of the key, $6 who makes it.
INSERT INTO api_keys (name, role, owner_type, owner_id, key_sha256, created_by)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, name, role, owner_type, owner_id, created_at, created_by, revoked_at
