-- One page of revocations, newest first. $1 last id seen, $2 most rows, $3 $4 the owner that may see them, or null,
-- $5 status, or null
SELECT id, scope, template_id, serial, epoch, gift_generation, user_ref, issuance_id, reason, status, author_key_id, revoked,
    left_locked, left_used, left_expired, left_revoked, created_at, started_at, finished_at
FROM revocations
WHERE id < $1 AND ($3::text IS NULL OR issuer = $3 AND issuer_id = $4) AND ($5::text IS NULL OR status = $5)
ORDER BY id DESC
LIMIT $2
