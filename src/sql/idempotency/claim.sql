-- Takes an Idempotency-Key for this transaction; no row where it is taken already, perhaps by one that has to end first.
-- $1 API key or null, $2 user or null, $3 key, $4 SHA-256 of the request
INSERT INTO idempotency_keys (api_key_id, user_ref, key, request_sha256) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
RETURNING id
