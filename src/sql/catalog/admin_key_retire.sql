-- Revokes the keys that were configured before this one. $1 SHA-256 of the key that holds.
UPDATE api_keys
SET revoked_at = now()
WHERE name = 'admin' AND created_by IS NULL AND key_sha256 <> $1 AND revoked_at IS NULL
RETURNING id, name, role, owner_type, owner_id, created_at, created_by, revoked_at
