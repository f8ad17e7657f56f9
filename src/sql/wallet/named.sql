-- Coupons of a user by their names. $1 user, $2 templates, $3 serials, $4 epochs, $5 gift generations (lists of the
-- same length)
SELECT u.template_id, u.serial, u.epoch, u.status, u.gift_generation,
    (extract(epoch FROM u.acquired_at) * 1000)::int8 AS acquired,
    (extract(epoch FROM u.valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM u.expires_at) * 1000)::int8 AS expires, u.expires_at <= now() AS over, u.amount
FROM unnest($2::int4[], $3::int8[], $4::int4[], $5::int2[]) AS n (template_id, serial, epoch, gift_generation)
-- Each by its key. Left to itself PostgreSQL, which knows users of few coupons, reads all that the user has.
CROSS JOIN LATERAL (SELECT * FROM user_coupons c WHERE c.template_id = n.template_id AND c.serial = n.serial LIMIT 1) AS u
WHERE u.user_ref = $1 AND u.epoch = n.epoch AND u.gift_generation = n.gift_generation
