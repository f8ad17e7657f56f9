-- Ends coupons. Lists of the same length: $1 templates, $2 serials, $3 statuses that they are in; $4 the status after
UPDATE user_coupons u SET status = $4
FROM unnest($1::int4[], $2::int8[], $3::int2[]) AS k (template_id, serial, status)
WHERE u.template_id = k.template_id AND u.serial = k.serial AND u.status = k.status
