-- Coupons of orders whose settlement entries are not what the order says, or whose shares do not add up. $1 template, or
-- null for all
WITH entries AS (
    SELECT order_id, template_id, serial, sum(amount) FILTER (WHERE refund_id IS NULL) AS booked,
        -sum(amount) FILTER (WHERE refund_id IS NOT NULL) AS reversed
    FROM settlement_entries
    WHERE side = 'beneficiary' AND ($1::int4 IS NULL OR template_id = $1)
    GROUP BY order_id, template_id, serial
), coupons AS (
    SELECT c.order_id, c.template_id, c.serial, c.discount, c.gift_value, c.reversed,
        CASE WHEN r.used_at IS NULL THEN 0 ELSE c.discount + c.gift_value END AS due,
        coalesce((SELECT sum((s ->> 'share')::numeric) FROM jsonb_array_elements(c.shares -> 'lines') AS s), 0)
        + coalesce((SELECT sum((s ->> 'share')::numeric) FROM jsonb_array_elements(c.shares -> 'shipping') AS s), 0)
            AS shared
    FROM redemption_coupons c JOIN redemptions r ON r.order_id = c.order_id
    WHERE $1::int4 IS NULL OR c.template_id = $1
)
SELECT coalesce(c.template_id, e.template_id) AS template_id, coalesce(c.serial, e.serial) AS serial,
    coalesce(c.order_id, e.order_id) AS order_id, CASE
    WHEN c.order_id IS NULL THEN 'has settlement entries, but the order has no such coupon'
    WHEN c.due <> coalesce(e.booked, 0) THEN
        format('settlement entries add up to %s, discount and gifts to %s', coalesce(e.booked, 0), c.due)
    WHEN c.reversed <> coalesce(e.reversed, 0) THEN
        format('settlement entries reverse %s, the coupon has %s reversed', coalesce(e.reversed, 0), c.reversed)
    ELSE format('its shares add up to %s, its discount is %s', c.shared, c.discount) END AS what
FROM coupons c FULL JOIN entries e
    ON e.order_id = c.order_id AND e.template_id = c.template_id AND e.serial = c.serial
WHERE c.order_id IS NULL OR c.due <> coalesce(e.booked, 0) OR c.reversed <> coalesce(e.reversed, 0)
    OR c.shared <> c.discount
ORDER BY order_id, template_id, serial
