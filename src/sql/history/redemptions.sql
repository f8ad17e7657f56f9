-- What a coupon did for these orders, in the order of their locks. $1 orders, $2 template, $3 serial
SELECT r.order_id, r.checkout_id, r.status, r.currency, c.state, c.user_ref, c.discount, c.gift_value, c.reversed,
    (extract(epoch FROM r.locked_at) * 1000)::int8, (extract(epoch FROM r.lock_expires_at) * 1000)::int8,
    (extract(epoch FROM r.used_at) * 1000)::int8, (extract(epoch FROM r.released_at) * 1000)::int8,
    (extract(epoch FROM r.conflict_at) * 1000)::int8
FROM unnest($1::text[]) AS o (order_id)
JOIN redemption_coupons c ON c.order_id = o.order_id AND c.template_id = $2 AND c.serial = $3
JOIN redemptions r ON r.order_id = o.order_id
ORDER BY r.locked_at, r.order_id
