-- Coupons of a user by their names. $1 user, $2 templates, $3 serials, $4 epochs, $5 gift generations (lists of the
-- same length)
SELECT u.template_id, u.serial, u.epoch, u.status, u.gift_generation,
    (extract(epoch FROM u.acquired_at) * 1000)::int8 AS acquired,
    (extract(epoch FROM u.valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM u.expires_at) * 1000)::int8 AS expires, u.expires_at <= now() AS over, u.amount
FROM unnest($2::int4[], $3::int8[], $4::int4[], $5::int2[]) AS n (template_id, serial, epoch, gift_generation)
JOIN user_coupons u USING (template_id, serial, epoch, gift_generation)
WHERE u.user_ref = $1
