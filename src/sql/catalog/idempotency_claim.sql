-- Takes an Idempotency-Key for this transaction; no row where it is taken already.
-- A key whose time is over counts as new. $1 API key, $2 key, $3 SHA-256 of the request, $4 hours that a key is kept.
INSERT INTO idempotency_keys AS taken (api_key_id, key, request_sha256)
VALUES ($1, $2, $3)
ON CONFLICT (api_key_id, key) DO UPDATE
SET request_sha256 = excluded.request_sha256, status = NULL, answer = NULL, revision = NULL, created_at = now()
WHERE taken.created_at < now() - make_interval(hours => $4)
RETURNING true
