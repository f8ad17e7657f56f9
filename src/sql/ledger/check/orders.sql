-- Orders whose totals or states are not those of their coupons and refunds. $1 template, or null for all: orders that
-- have a coupon of it
SELECT NULL::int4 AS template_id, NULL::int8 AS serial, r.order_id, CASE
    WHEN r.discount_total <> c.discount THEN
        format('its discount is %s, its coupons say %s', r.discount_total, c.discount)
    WHEN r.reversed_total <> f.reversed THEN
        format('it has %s reversed, its refunds say %s', r.reversed_total, f.reversed)
    ELSE format('it is %s, its coupons are %s', r.status, c.states) END AS what
FROM redemptions r
CROSS JOIN LATERAL (SELECT coalesce(sum(k.discount), 0) AS discount, string_agg(DISTINCT k.state, ', ') AS states,
        coalesce(bool_and(k.state = ANY (CASE r.status WHEN 'locked' THEN '{locked}'::text[] WHEN 'used' THEN '{used}'
            WHEN 'cancelled' THEN '{released}' WHEN 'timed_out' THEN '{released}' ELSE '{used,returned}' END)), true)
            AS fits
    FROM redemption_coupons k WHERE k.order_id = r.order_id) AS c
CROSS JOIN LATERAL (SELECT coalesce(sum(k.reversed_total), 0) AS reversed FROM refunds k WHERE k.order_id = r.order_id)
    AS f
WHERE ($1::int4 IS NULL OR EXISTS (SELECT FROM redemption_coupons k WHERE k.order_id = r.order_id AND k.template_id = $1))
    AND (coalesce(r.discount_total, 0) <> c.discount OR r.reversed_total <> f.reversed OR NOT c.fits)
ORDER BY r.order_id
