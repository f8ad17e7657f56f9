-- Adds to counters, in key order, in the slot of this connection. Lists of the same length: $1 templates, $2 times in
-- ms (null: now), then what is added: $3 locked, $4 used, $5 restored, $6 expired, $7 revoked, $8 gifted, $9 orders,
-- $10 discount_total, $11 discount_reversed, $12 gift_total, $13 gift_reversed, $14 revenue, $15 revenue_refunded
INSERT INTO coupon_counters AS c (template_id, day, slot, locked, used, restored, expired, revoked, gifted, orders,
    discount_total, discount_reversed, gift_total, gift_reversed, revenue, revenue_refunded)
SELECT d.template_id,
    (coalesce(to_timestamp(d.at / 1000.0), now()) AT TIME ZONE usable_timezone(t.timezone))::date AS day,
    pg_backend_pid() % 16, sum(d.locked), sum(d.used), sum(d.restored), sum(d.expired), sum(d.revoked), sum(d.gifted),
    sum(d.orders), sum(d.discount_total), sum(d.discount_reversed), sum(d.gift_total), sum(d.gift_reversed),
    sum(d.revenue), sum(d.revenue_refunded)
FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[],
        $10::numeric[], $11::numeric[], $12::numeric[], $13::numeric[], $14::numeric[], $15::numeric[])
    AS d (template_id, at, locked, used, restored, expired, revoked, gifted, orders, discount_total,
        discount_reversed, gift_total, gift_reversed, revenue, revenue_refunded)
JOIN coupon_templates t ON t.id = d.template_id
GROUP BY d.template_id, day
ORDER BY d.template_id, day
ON CONFLICT (template_id, day, slot) DO UPDATE SET
    locked = c.locked + excluded.locked, used = c.used + excluded.used, restored = c.restored + excluded.restored,
    expired = c.expired + excluded.expired, revoked = c.revoked + excluded.revoked, gifted = c.gifted + excluded.gifted,
    orders = c.orders + excluded.orders,
    discount_total = c.discount_total + excluded.discount_total,
    discount_reversed = c.discount_reversed + excluded.discount_reversed,
    gift_total = c.gift_total + excluded.gift_total, gift_reversed = c.gift_reversed + excluded.gift_reversed,
    revenue = c.revenue + excluded.revenue, revenue_refunded = c.revenue_refunded + excluded.revenue_refunded
