-- Records that an order was paid after its coupons had gone elsewhere: once. $1 order
UPDATE redemptions SET conflict_at = now() WHERE order_id = $1 AND status = 'timed_out' AND conflict_at IS NULL
