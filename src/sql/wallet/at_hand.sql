-- A user's coupons that are not used up, among the newest: those that hold at a time first, the first to expire first;
-- then what is over, the last first. The last that was looked at follows, marked, if there may be more.
-- $1 user, $2 the time in ms, $3 most rows, $4 most coupons to look at
WITH looked AS (
    SELECT template_id, serial, epoch, status, gift_generation, acquired_at, valid_from, expires_at, amount
    FROM user_coupons
    WHERE user_ref = $1
    ORDER BY acquired_at DESC, template_id DESC, serial DESC
    LIMIT $4::int8
)
SELECT template_id, serial, epoch, status, gift_generation,
    (extract(epoch FROM acquired_at) * 1000)::int8 AS acquired,
    (extract(epoch FROM valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM expires_at) * 1000)::int8 AS expires, expires_at <= now() AS over, amount, is_end
FROM (
    (SELECT l.*, false AS is_end FROM looked l
    WHERE status IN (1, 2, 3, 5)
    ORDER BY status = 5 OR expires_at <= to_timestamp($2::int8 / 1000.0),
        abs((extract(epoch FROM expires_at) * 1000)::int8 - $2::int8), template_id, serial
    LIMIT $3::int8)
    UNION ALL
    (SELECT l.*, true FROM looked l OFFSET $4::int8 - 1 LIMIT 1)
) AS hand
