-- Units of each line that refunds of an order took back, and in each row whether its fees were refunded. $1 order
SELECT l.line_id, coalesce(sum(l.quantity), 0)::int8 AS quantity,
    (SELECT coalesce(bool_or(f.shipping_refunded), false) FROM refunds f WHERE f.order_id = $1) AS shipping_refunded
FROM refunds r LEFT JOIN refund_lines l USING (refund_id)
WHERE r.order_id = $1
GROUP BY l.line_id
