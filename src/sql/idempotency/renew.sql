-- Takes an Idempotency-Key whose time is over as if it were new; no row where somebody else just did.
-- $1 id, $2 SHA-256 of the request, $3 hours that an answer is kept
UPDATE idempotency_keys
SET request_sha256 = $2, status = NULL, answer = NULL, sealed = NULL, revision = NULL, created_at = now()
WHERE id = $1 AND created_at < now() - make_interval(hours => $3)
RETURNING id
