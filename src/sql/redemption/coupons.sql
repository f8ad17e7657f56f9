-- Coupons of redemptions, in the order of computing, each with its row as it is now. $1 orders
SELECT r.order_id, r.template_id, r.serial, r.epoch, r.gift_generation, r.state, r.user_ref, r.kind, r.issuer,
    r.issuer_id, r.discount, r.gift_value, r.shares, r.reversed, (extract(epoch FROM r.valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM r.expires_at) * 1000)::int8 AS expires, u.status, u.user_ref AS present_user,
    u.gift_generation AS present_gift, (extract(epoch FROM u.expires_at) * 1000)::int8 AS present_expires
FROM redemption_coupons r JOIN user_coupons u USING (template_id, serial)
WHERE r.order_id = ANY ($1)
ORDER BY r.order_id, r.position
