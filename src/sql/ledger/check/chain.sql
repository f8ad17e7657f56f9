-- Operations that do not follow on the one before, or that no coupon may make. $1 template
SELECT $1::int4 AS template_id, o.serial, NULL::text AS order_id,
    CASE
    WHEN o.from_status <> o.before THEN format('operation %s (%s) starts from status %s, but the coupon was in status %s',
        o.id, o.operation, o.from_status, o.before)
    ELSE format('operation %s (%s) leads from status %s to %s, which it never does', o.id, o.operation, o.from_status,
        o.to_status) END AS what
FROM (SELECT serial, id, operation, from_status, to_status,
        coalesce(lag(to_status) OVER (PARTITION BY serial ORDER BY id), 1) AS before
    FROM coupon_operations WHERE template_id = $1) AS o
WHERE o.from_status <> o.before OR (o.operation, o.from_status, o.to_status) NOT IN (
    ('lock', 1, 2), ('confirm', 2, 4), ('cancel', 2, 1), ('cancel', 2, 5), ('time_out', 2, 1), ('time_out', 2, 5),
    ('late_lock', 1, 2), ('late_lock', 5, 2), ('restore', 4, 1), ('restore', 4, 5), ('extend', 4, 1), ('expire', 1, 5),
    ('revoke', 1, 6), ('revoke', 3, 6), ('offer', 1, 3), ('accept', 3, 1), ('decline', 3, 1), ('withdraw', 3, 1),
    ('return', 3, 1))
