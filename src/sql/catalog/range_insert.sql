-- Adds serials behind the last ones of a template whose row is locked. $1 template, $2 how many, $3 cell.
INSERT INTO stock_ranges (template_id, first_serial, last_serial, cell)
SELECT $1, coalesce(max(last_serial), 0) + 1, coalesce(max(last_serial), 0) + $2, $3
FROM stock_ranges
WHERE template_id = $1
