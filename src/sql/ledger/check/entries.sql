-- Settlement entries without their counter-entry. $1 template, or null for all
SELECT min(template_id) AS template_id, min(serial) AS serial, min(order_id) AS order_id, CASE
    WHEN count(*) <> 2 THEN format('settlement entry %s has %s sides instead of 2', entry, count(*))
    WHEN sum(amount) <> 0 THEN format('the sides of settlement entry %s add up to %s', entry, sum(amount))
    ELSE format('the sides of settlement entry %s are about different things', entry) END AS what
FROM settlement_entries
WHERE $1::int4 IS NULL OR template_id = $1
GROUP BY entry
HAVING count(*) <> 2 OR sum(amount) <> 0 OR count(DISTINCT side) <> 2
    OR count(DISTINCT (order_id, refund_id, template_id, serial, currency, subject, subject_id)) <> 1
ORDER BY order_id, serial
