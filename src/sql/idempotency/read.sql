-- The request and the answer of an Idempotency-Key that is taken. $1 API key or null, $2 user or null, $3 key,
-- $4 hours that an answer is kept
SELECT id, request_sha256, status, answer, sealed, revision, created_at < now() - make_interval(hours => $4) AS over
FROM idempotency_keys WHERE (api_key_id = $1 OR user_ref = $2) AND key = $3
