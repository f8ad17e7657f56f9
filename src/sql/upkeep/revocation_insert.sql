-- Makes a revocation. $1 scope, $2 template, $3 serial, $4 epoch, $5 gift generation, $6 user, $7 $8 the owner whose
-- templates it is bound to, $9 reason, $10 author, $11 its moment in ms, $12 cell, $13 $14 the entry that must be
-- stored before it begins, $15 whether it is done already, with one coupon revoked; $16 issuance
INSERT INTO revocations (scope, template_id, serial, epoch, gift_generation, user_ref, issuer, issuer_id, reason, status,
    author_key_id, granted_until, cell, after_epoch, after_seq, revoked, started_at, finished_at, issuance_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $15::bool THEN 'done' ELSE 'pending' END,
    $10, to_timestamp($11::float8 / 1000), $12, $13, $14, $15::bool::int4,
    CASE WHEN $15::bool THEN now() END, CASE WHEN $15::bool THEN now() END, $16)
RETURNING id, scope, template_id, serial, epoch, gift_generation, user_ref, issuance_id, reason, status, author_key_id, revoked,
    left_locked, left_used, left_expired, left_revoked, created_at, started_at, finished_at
