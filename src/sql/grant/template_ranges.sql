-- Stock ranges of a template in a cell, ascending. $1 template, $2 cell
SELECT first_serial, last_serial FROM stock_ranges WHERE template_id = $1 AND cell = $2 ORDER BY first_serial
