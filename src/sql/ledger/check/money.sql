-- Counters of orders and amounts that differ from a recount of orders, refunds and settlement entries. $1 template, or
-- null for all
WITH t AS MATERIALIZED (
    SELECT id, usable_timezone(timezone) AS zone FROM coupon_templates WHERE $1::int4 IS NULL OR id = $1
), uses AS MATERIALIZED (
    SELECT c.template_id, c.order_id, sum(c.discount) AS discount, sum(c.gift_value) AS gift_value
    FROM redemption_coupons c WHERE $1::int4 IS NULL OR c.template_id = $1
    GROUP BY c.template_id, c.order_id
), paid_back AS (
    SELECT f.order_id, f.created_at, coalesce((SELECT sum(l.quantity * (p.line ->> 'unit_price')::numeric)
            FROM refund_lines l JOIN LATERAL jsonb_array_elements(r.placed_order #> '{order,lines}') AS p (line)
                ON p.line ->> 'line_id' = l.line_id
            WHERE l.refund_id = f.refund_id), 0)
        + CASE WHEN f.shipping_refunded THEN r.shipping_total ELSE 0 END - f.reversed_total AS amount
    FROM refunds f JOIN redemptions r ON r.order_id = f.order_id
)
SELECT template_id, NULL::int8 AS serial, NULL::text AS order_id,
    format('counter %s of %s is %s, its rows say %s', counter, day, sum(counted), sum(recount)) AS what
FROM (
    SELECT c.template_id, k.counter, c.day, k.amount AS counted, 0 AS recount
    FROM coupon_counters c CROSS JOIN LATERAL (VALUES ('orders', c.orders), ('discount_total', c.discount_total),
        ('discount_reversed', c.discount_reversed), ('gift_total', c.gift_total), ('gift_reversed', c.gift_reversed),
        ('revenue', c.revenue), ('revenue_refunded', c.revenue_refunded)) AS k (counter, amount)
    WHERE $1::int4 IS NULL OR c.template_id = $1
    UNION ALL
    SELECT u.template_id, k.counter, (r.used_at AT TIME ZONE t.zone)::date, 0, k.amount
    FROM uses u JOIN redemptions r ON r.order_id = u.order_id JOIN t ON t.id = u.template_id
    CROSS JOIN LATERAL (VALUES ('orders', 1), ('discount_total', u.discount), ('gift_total', u.gift_value),
        ('revenue', r.payable)) AS k (counter, amount)
    WHERE r.used_at IS NOT NULL
    UNION ALL
    SELECT s.template_id, CASE s.subject WHEN 'gift' THEN 'gift_reversed' ELSE 'discount_reversed' END,
        (s.booked_at AT TIME ZONE t.zone)::date, 0, -s.amount
    FROM settlement_entries s JOIN t ON t.id = s.template_id
    WHERE s.side = 'beneficiary' AND s.refund_id IS NOT NULL
    UNION ALL
    SELECT u.template_id, 'revenue_refunded', (b.created_at AT TIME ZONE t.zone)::date, 0, b.amount
    FROM paid_back b JOIN uses u ON u.order_id = b.order_id JOIN t ON t.id = u.template_id
) AS both_sides
GROUP BY template_id, counter, day
HAVING sum(counted) <> sum(recount)
ORDER BY template_id, counter, day
