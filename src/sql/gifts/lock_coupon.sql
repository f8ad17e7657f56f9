-- Locks a coupon. $1 template, $2 serial
SELECT template_id, serial, epoch, status, gift_generation,
    (extract(epoch FROM acquired_at) * 1000)::int8 AS acquired, (extract(epoch FROM valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM expires_at) * 1000)::int8 AS expires, expires_at <= now() AS over, amount, user_ref
FROM user_coupons
WHERE template_id = $1 AND serial = $2
FOR UPDATE
