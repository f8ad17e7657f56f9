-- How coupons came to their holders, and their offers that stand. Lists of the same length: $1 templates, $2 serials,
-- $3 gift generations
SELECT n.template_id, n.serial, (extract(epoch FROM p.closed_at) * 1000)::int8 AS received,
    o.id, (extract(epoch FROM o.offered_at) * 1000)::int8 AS offered, (extract(epoch FROM o.expires_at) * 1000)::int8 AS expires
FROM unnest($1::int4[], $2::int8[], $3::int2[]) AS n (template_id, serial, gift_generation)
LEFT JOIN coupon_gifts p ON p.template_id = n.template_id AND p.serial = n.serial AND p.state = 'accepted'
    AND p.gift_generation = n.gift_generation - 1
LEFT JOIN coupon_gifts o ON o.template_id = n.template_id AND o.serial = n.serial AND o.state = 'offered'
