-- A page of a user's coupons, newest first. It looks at a bounded number of them: where these do not fill the page and
-- there may be more, the last that was looked at follows, marked, as the place to go on behind.
-- $1 user, $2 to $4 the place to go on behind (acquired in ms, template, serial; null: from the start),
-- $5 most rows, $6 status filter: null, or 'unused', 'locked', 'offered', 'used', 'expired', 'revoked',
-- $7 templates to show (null: all), $8 most coupons to look at
WITH looked AS (
    SELECT template_id, serial, epoch, status, gift_generation, acquired_at, valid_from, expires_at, amount
    FROM user_coupons
    -- Always a comparison of rows: an "or" with null could use the index no further than the user.
    WHERE user_ref = $1 AND (acquired_at, template_id, serial) <
        (coalesce(to_timestamp($2::int8 / 1000.0), 'infinity'), coalesce($3::int4, 0), coalesce($4::int8, 0))
    ORDER BY acquired_at DESC, template_id DESC, serial DESC
    LIMIT $8::int8
)
SELECT template_id, serial, epoch, status, gift_generation,
    (extract(epoch FROM acquired_at) * 1000)::int8 AS acquired, (extract(epoch FROM valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM expires_at) * 1000)::int8 AS expires, expires_at <= now() AS over, amount, is_end
FROM (
    (SELECT l.*, false AS is_end FROM looked l
    WHERE ($7::int4[] IS NULL OR template_id = ANY ($7))
        AND ($6::text IS NULL
            OR ($6 = 'unused' AND status = 1 AND expires_at > now())
            OR ($6 = 'locked' AND status = 2)
            OR ($6 = 'offered' AND status = 3)
            OR ($6 = 'used' AND status = 4)
            OR ($6 = 'expired' AND (status = 5 OR status = 1 AND expires_at <= now()))
            OR ($6 = 'revoked' AND status = 6))
    LIMIT $5::int8)
    UNION ALL
    (SELECT l.*, true FROM looked l OFFSET $8::int8 - 1 LIMIT 1)
) AS page
LIMIT $5::int8
