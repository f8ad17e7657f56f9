-- An order's coupons from one state to another. $1 order, $2 states before, $3 state after
UPDATE redemption_coupons SET state = $3 WHERE order_id = $1 AND state = ANY ($2)
