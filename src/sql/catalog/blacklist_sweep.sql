-- Deletes entries that have expired, a step. $1 most rows.
DELETE FROM blacklist WHERE id IN (
    SELECT id FROM blacklist WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)
