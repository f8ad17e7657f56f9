-- A redemption after a refund. $1 order, $2 status after, $3 amount reversed
UPDATE redemptions SET status = $2, reversed_total = reversed_total + $3
WHERE order_id = $1 AND status IN ('used', 'partially_refunded', 'refunded')
