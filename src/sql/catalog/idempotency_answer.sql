-- Stores the answer of the write that owns the key. $1 API key, $2 key, $3 status, $4 body, $5 revision for the ETag.
UPDATE idempotency_keys SET status = $3, answer = $4, revision = $5 WHERE api_key_id = $1 AND key = $2
