-- Frees a key whose write was refused. $1 id
DELETE FROM idempotency_keys WHERE id = $1
