-- A user's coupons that are not used up: those that hold at a time first, the first to expire first; then what is over,
-- the last first. $1 user, $2 the time in ms, $3 most rows
SELECT template_id, serial, epoch, status, gift_generation,
    (extract(epoch FROM acquired_at) * 1000)::int8 AS acquired,
    (extract(epoch FROM valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM expires_at) * 1000)::int8 AS expires, expires_at <= now() AS over, amount
FROM user_coupons
WHERE user_ref = $1 AND status IN (1, 2, 3, 5)
ORDER BY status = 5 OR expires_at <= to_timestamp($2::int8 / 1000.0),
    abs((extract(epoch FROM expires_at) * 1000)::int8 - $2::int8), template_id, serial
LIMIT $3
