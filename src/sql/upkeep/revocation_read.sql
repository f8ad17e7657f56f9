-- One revocation. $1 id, $2 $3 the owner that may see it, or null
SELECT id, scope, template_id, serial, epoch, gift_generation, user_ref, issuance_id, reason, status, author_key_id, revoked,
    left_locked, left_used, left_expired, left_revoked, created_at, started_at, finished_at
FROM revocations
WHERE id = $1 AND ($2::text IS NULL OR issuer = $2 AND issuer_id = $3)
