-- Coupons that are not as their last operation left them, and operations of coupons that are not there. $1 template
SELECT $1::int4 AS template_id, coalesce(u.serial, o.serial) AS serial, NULL::text AS order_id, CASE
    WHEN u.serial IS NULL THEN 'has operations, but there is no such coupon'
    WHEN o.serial IS NULL THEN
        format('is in status %s and gift generation %s, but has no operation', u.status, u.gift_generation)
    WHEN u.status <> o.to_status THEN
        format('is in status %s, but its last operation (%s) left it in status %s', u.status, o.operation, o.to_status)
    WHEN u.gift_generation <> o.gift_generation THEN
        format('is in gift generation %s, but its last operation left it in %s', u.gift_generation, o.gift_generation)
    ELSE 'is in other hands than its last operation left it in' END AS what
FROM (SELECT serial, status, gift_generation, user_ref FROM user_coupons WHERE template_id = $1) AS u
FULL JOIN (SELECT DISTINCT ON (serial) serial, operation, to_status, gift_generation, user_ref
    FROM coupon_operations WHERE template_id = $1 ORDER BY serial, id DESC) AS o ON o.serial = u.serial
WHERE u.serial IS NULL OR u.status <> coalesce(o.to_status, 1)
    OR u.gift_generation <> coalesce(o.gift_generation, 0) OR u.user_ref <> coalesce(o.user_ref, u.user_ref)
