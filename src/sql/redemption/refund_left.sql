-- What the bearers of an order's coupons still owe, thing by thing. $1 order
SELECT template_id, serial, subject, subject_id, party, party_id, sum(amount) AS amount
FROM settlement_entries WHERE order_id = $1 AND side = 'beneficiary'
GROUP BY template_id, serial, subject, subject_id, party, party_id
