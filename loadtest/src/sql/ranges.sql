-- Serials that templates own. $1 their ids.
SELECT template_id, first_serial, last_serial, created_at
FROM stock_ranges
WHERE template_id = ANY ($1)
ORDER BY template_id, first_serial
