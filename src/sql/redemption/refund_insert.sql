-- A refund. $1 its id, $2 order, $3 request's SHA-256, $4 reason, $5 fees refunded, $6 reversed, $7 outcome
INSERT INTO refunds (refund_id, order_id, request_sha256, reason, shipping_refunded, reversed_total, outcome)
VALUES ($1, $2, $3, $4, $5, $6, $7)
