-- Locks coupons in key order and tells where they stand. Lists of the same length: $1 templates, $2 serials
SELECT u.template_id, u.serial, u.status, u.user_ref, u.gift_generation, u.expires_at <= now() AS over
FROM unnest($1::int4[], $2::int8[]) AS k (template_id, serial)
JOIN user_coupons u ON u.template_id = k.template_id AND u.serial = k.serial
ORDER BY u.template_id, u.serial
FOR UPDATE OF u
