-- Coupons that two orders hold, and coupons whose status is not that of the order which holds them. $1 template
SELECT $1::int4 AS template_id, coalesce(u.serial, h.serial) AS serial, h.orders AS order_id, CASE
    WHEN h.count > 1 THEN format('is held by %s orders', h.count)
    WHEN h.count IS NULL THEN format('is in status %s, but no order holds it', u.status)
    ELSE format('is in status %s, but its order has it %s', coalesce(u.status::text, 'none'), h.state) END AS what
FROM (SELECT serial, status FROM user_coupons WHERE template_id = $1 AND status IN (2, 4)) AS u
FULL JOIN (SELECT serial, count(*) AS count, min(state) AS state, string_agg(order_id, ', ' ORDER BY order_id) AS orders
    FROM redemption_coupons WHERE template_id = $1 AND state IN ('locked', 'used') GROUP BY serial) AS h
    ON h.serial = u.serial
WHERE h.count > 1 OR coalesce(u.status, 0) <> CASE h.state WHEN 'locked' THEN 2 WHEN 'used' THEN 4 ELSE -1 END
