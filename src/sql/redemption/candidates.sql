-- Locks coupons by their keys, in key order. Lists of the same length: $1 templates, $2 serials
SELECT u.template_id, u.serial, u.epoch, u.status, u.gift_generation,
    (extract(epoch FROM u.acquired_at) * 1000)::int8 AS acquired,
    (extract(epoch FROM u.valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM u.expires_at) * 1000)::int8 AS expires, u.expires_at <= now() AS over, u.amount, u.user_ref
FROM unnest($1::int4[], $2::int8[]) AS n (template_id, serial) JOIN user_coupons u USING (template_id, serial)
ORDER BY u.template_id, u.serial
FOR UPDATE OF u
