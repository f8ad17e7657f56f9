-- Stores the answer of the write that took a key. $1 id, $2 status, $3 body, $4 body where it is sealed, $5 revision for
-- the ETag
UPDATE idempotency_keys SET status = $2, answer = $3, sealed = $4, revision = $5 WHERE id = $1
