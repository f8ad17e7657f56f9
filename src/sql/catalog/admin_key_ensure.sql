-- Makes sure that the configured key of role admin exists and holds. $1 SHA-256 of the key.
INSERT INTO api_keys (name, role, owner_type, key_sha256)
VALUES ('admin', 'admin', 'platform', $1)
ON CONFLICT (key_sha256) DO UPDATE SET revoked_at = NULL WHERE api_keys.revoked_at IS NOT NULL
