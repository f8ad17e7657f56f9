-- The redemption of an order, and the moment of this transaction. $1 order
SELECT order_id, status, checkout_id, user_ref, request_sha256, currency, placed_order, goods_total, shipping_total,
    discount_total, payable, reversed_total, (extract(epoch FROM locked_at) * 1000)::int8 AS locked_at,
    (extract(epoch FROM lock_expires_at) * 1000)::int8 AS lock_expires_at,
    (extract(epoch FROM used_at) * 1000)::int8 AS used_at, (extract(epoch FROM conflict_at) * 1000)::int8 AS conflict_at,
    (extract(epoch FROM now()) * 1000)::int8 AS now
FROM redemptions WHERE order_id = $1
