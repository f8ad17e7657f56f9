-- A redemption that is locked from now on; nothing where the order has one. $1 order, $2 checkout, $3 user,
-- $4 request's SHA-256, $5 currency, $6 placed order, $7 goods, $8 shipping, $9 discount, $10 payable, $11 seconds of the lock
INSERT INTO redemptions (order_id, status, checkout_id, user_ref, request_sha256, currency, placed_order, goods_total,
    shipping_total, discount_total, payable, locked_at, lock_expires_at)
VALUES ($1, 'locked', $2, $3, $4, $5, $6, $7, $8, $9, $10, now(), now() + $11::int4 * interval '1 second')
ON CONFLICT (order_id) DO NOTHING
RETURNING (extract(epoch FROM locked_at) * 1000)::int8 AS locked_at,
    (extract(epoch FROM lock_expires_at) * 1000)::int8 AS lock_expires_at
