-- The oldest revocation that can go on and that nobody else carries out now: the grants before it are rows.
SELECT r.id, r.scope, r.template_id, r.serial, r.epoch, r.gift_generation, r.user_ref, r.issuance_id, r.reason, r.status, r.author_key_id,
    r.revoked, r.left_locked, r.left_used, r.left_expired, r.left_revoked, r.created_at, r.started_at, r.finished_at,
    r.issuer, r.issuer_id, r.granted_until, r.cursor_acquired, r.cursor_template, r.cursor_serial
FROM revocations r JOIN cells c ON c.cell = r.cell
WHERE r.status <> 'done' AND (c.watermark_epoch, c.watermark_seq) >= (r.after_epoch, r.after_seq)
ORDER BY r.id LIMIT 1
FOR UPDATE OF r SKIP LOCKED
