-- Coupons as a year of sales leaves them: five templates at a time, time goes on from row to row, a few users have very
-- many. User u-whale has one in so many rows. $1 rows, $2 one row in so many is u-whale's, $3 other users, $4 coupons of
-- a template
INSERT INTO user_coupons (template_id, serial, epoch, user_ref, claim_key_hash, ip_hash, device_hash, status, acquired_at,
    valid_from, expires_at)
SELECT template_id, serial, 1, user_ref, hash, hash # 1, hash # 2,
    -- Used 45 in 100, revoked 3; of what is over, 4 in 100 not swept yet; of what holds, 2 in 50 locked and 1 offered.
    CASE WHEN fate < 0.45 THEN 4
        WHEN fate < 0.48 THEN 6
        WHEN expires_at < now() AND fate < 0.98 THEN 5
        WHEN expires_at > now() AND fate > 0.98 THEN 2
        WHEN expires_at > now() AND fate > 0.97 THEN 3
        ELSE 1 END,
    acquired_at, acquired_at, expires_at
FROM (
    SELECT template_id, serial, user_ref, hash, fate, acquired_at,
        acquired_at + (7 + (i % 5) * 20) * interval '1 day' AS expires_at
    FROM (
        SELECT i, (i / (5 * $4::int8)) * 5 + i % 5 + 1 AS template_id, (i % (5 * $4::int8)) / 5 + 1 AS serial,
            hashint8extended(i, 7) AS hash,
            CASE WHEN i % $2::int8 = $2::int8 / 2 THEN 'u-whale'
                ELSE 'u-' || floor($3::int8 * power((hashint8extended(i, 1) & 1073741823) / 1073741824.0::float8, 1.5))::int8
                END AS user_ref,
            (hashint8extended(i, 2) & 1048575) / 1048576.0::float8 AS fate,
            date_trunc('milliseconds', now() - interval '300 days' * (1 - i / $1::float8)) AS acquired_at
        FROM generate_series(0, $1::int8 - 1) AS i
    ) AS made
) AS timed
