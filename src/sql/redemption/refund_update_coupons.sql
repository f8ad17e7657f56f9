-- Coupons of a redemption after a refund. $1 order; lists of the same length: $2 templates, $3 serials, $4 amounts
-- reversed, gifts included, $5 whether they were given back
UPDATE redemption_coupons r SET reversed = r.reversed + d.reversed,
    state = CASE WHEN d.is_returned THEN 'returned' ELSE r.state END
FROM unnest($2::int4[], $3::int8[], $4::numeric[], $5::bool[]) AS d (template_id, serial, reversed, is_returned)
WHERE r.order_id = $1 AND r.template_id = d.template_id AND r.serial = d.serial
