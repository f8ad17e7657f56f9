-- Ends the offers of coupons that end themselves. Lists of the same length: $1 templates, $2 serials; $3 the state after
UPDATE coupon_gifts g SET state = $3, closed_at = now()
FROM unnest($1::int4[], $2::int8[]) AS k (template_id, serial)
WHERE g.template_id = k.template_id AND g.serial = k.serial AND g.state = 'offered'
