-- Makes sure that the configured key of role admin exists and holds; gives it back if that changed it, with the time
-- at which it was revoked before. $1 SHA-256 of the key.
WITH old AS (SELECT id, revoked_at FROM api_keys WHERE key_sha256 = $1),
    put AS (
        INSERT INTO api_keys (name, role, owner_type, key_sha256)
        VALUES ('admin', 'admin', 'platform', $1)
        ON CONFLICT (key_sha256) DO UPDATE SET revoked_at = NULL WHERE api_keys.revoked_at IS NOT NULL
        RETURNING id, name, role, owner_type, owner_id, created_at, created_by, revoked_at)
SELECT put.*, old.revoked_at AS was_revoked_at
FROM put LEFT JOIN old ON old.id = put.id
