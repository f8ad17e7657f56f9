-- Finds an API key that holds. $1 SHA-256 of the key.
SELECT id, role, owner_type, owner_id FROM api_keys WHERE key_sha256 = $1 AND revoked_at IS NULL
