-- Counters of coupons that differ from a recount of coupons and operations. $1 template
WITH t AS MATERIALIZED (
    SELECT coalesce((SELECT usable_timezone(timezone) FROM coupon_templates WHERE id = $1), 'UTC') AS zone
)
SELECT $1::int4 AS template_id, NULL::int8 AS serial, NULL::text AS order_id,
    format('counter %s of %s is %s, its rows say %s', counter, day, sum(counted), sum(recount)) AS what
FROM (
    SELECT k.counter, c.day, k.amount AS counted, 0 AS recount
    FROM coupon_counters c CROSS JOIN LATERAL (VALUES ('issued', c.issued), ('locked', c.locked), ('used', c.used),
        ('restored', c.restored), ('expired', c.expired), ('revoked', c.revoked), ('gifted', c.gifted))
        AS k (counter, amount)
    WHERE c.template_id = $1
    UNION ALL
    SELECT 'issued', (u.acquired_at AT TIME ZONE t.zone)::date AS day, 0, count(*)
    FROM user_coupons u, t WHERE u.template_id = $1 GROUP BY day
    UNION ALL
    SELECT k.counter, o.day, 0, k.amount
    FROM (SELECT (p.at AT TIME ZONE t.zone)::date AS day,
            count(*) FILTER (WHERE p.to_status = 2) - count(*) FILTER (WHERE p.from_status = 2) AS locked,
            count(*) FILTER (WHERE p.operation = 'confirm') AS used,
            count(*) FILTER (WHERE p.operation IN ('restore', 'extend')) AS restored,
            count(*) FILTER (WHERE p.to_status = 5) - count(*) FILTER (WHERE p.from_status = 5) AS expired,
            count(*) FILTER (WHERE p.operation = 'revoke') AS revoked,
            count(*) FILTER (WHERE p.operation = 'accept') AS gifted
        FROM coupon_operations p, t WHERE p.template_id = $1 GROUP BY day) AS o
    CROSS JOIN LATERAL (VALUES ('locked', o.locked), ('used', o.used), ('restored', o.restored),
        ('expired', o.expired), ('revoked', o.revoked), ('gifted', o.gifted)) AS k (counter, amount)
) AS both_sides
GROUP BY counter, day
HAVING sum(counted) <> sum(recount)
ORDER BY counter, day
