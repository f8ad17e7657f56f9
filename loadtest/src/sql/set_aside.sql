-- Rows that PostgreSQL refused, of templates and of entries that could not be read. $1 templates' ids.
SELECT template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, entry_epoch, entry_seq, reason
FROM set_aside
WHERE template_id = ANY ($1) OR template_id IS NULL
ORDER BY id
