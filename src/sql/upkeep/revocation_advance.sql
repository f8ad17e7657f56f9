-- How far a revocation has come, and what became of the coupons of this step. $1 id, $2 $3 $4 acquired, template and
-- serial of the last one seen, $5 revoked, $6 to $9 left because locked, used, expired, revoked before, $10 whether
-- it is done
UPDATE revocations SET cursor_acquired = $2, cursor_template = $3, cursor_serial = $4, revoked = revoked + $5,
    left_locked = left_locked + $6, left_used = left_used + $7, left_expired = left_expired + $8,
    left_revoked = left_revoked + $9, status = CASE WHEN $10 THEN 'done' ELSE 'running' END,
    started_at = coalesce(started_at, now()), finished_at = CASE WHEN $10 THEN now() END
WHERE id = $1
RETURNING id, scope, template_id, serial, epoch, gift_generation, user_ref, issuance_id, reason, status, author_key_id, revoked,
    left_locked, left_used, left_expired, left_revoked, created_at, started_at, finished_at
