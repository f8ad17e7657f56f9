-- A page of a user's coupons, newest first.
-- $1 user, $2 to $4 the place to go on behind (acquired in ms, template, serial; null: from the start),
-- $5 most rows, $6 status filter: null, or 'unused', 'locked', 'offered', 'used', 'expired', 'revoked'
SELECT template_id, serial, epoch, status, gift_generation,
    (extract(epoch FROM acquired_at) * 1000)::int8 AS acquired, (extract(epoch FROM valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM expires_at) * 1000)::int8 AS expires, expires_at <= now() AS over, amount
FROM user_coupons
WHERE user_ref = $1
    AND ($2::int8 IS NULL OR (acquired_at, template_id, serial) < (to_timestamp($2::int8 / 1000.0), $3::int4, $4::int8))
    AND ($6::text IS NULL
        OR ($6 = 'unused' AND status = 1 AND expires_at > now())
        OR ($6 = 'locked' AND status = 2)
        OR ($6 = 'offered' AND status = 3)
        OR ($6 = 'used' AND status = 4)
        OR ($6 = 'expired' AND (status = 5 OR status = 1 AND expires_at <= now()))
        OR ($6 = 'revoked' AND status = 6))
ORDER BY acquired_at DESC, template_id DESC, serial DESC
LIMIT $5
