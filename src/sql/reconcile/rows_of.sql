-- What PostgreSQL has under serials of a template, rows and what was set aside alike. $1 template, $2 serials
SELECT u.serial, u.epoch, coalesce(u.first_user_ref, u.user_ref), u.claim_key_hash
FROM unnest($2::int8[]) AS g (serial) JOIN user_coupons u ON u.template_id = $1 AND u.serial = g.serial
UNION ALL
SELECT s.serial, s.epoch, coalesce(s.user_ref, ''), coalesce(s.claim_key_hash, 0)
FROM unnest($2::int8[]) AS g (serial) JOIN set_aside s ON s.template_id = $1 AND s.serial = g.serial
WHERE s.reason NOT IN ('diverged', 'wiped')
