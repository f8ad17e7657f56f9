-- The request and the answer of an Idempotency-Key that is taken. $1 API key, $2 key.
SELECT request_sha256, status, answer, revision FROM idempotency_keys WHERE api_key_id = $1 AND key = $2
