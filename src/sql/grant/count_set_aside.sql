-- Counts rows set aside. $1 cell, $2 rows
UPDATE cells SET set_aside_rows = set_aside_rows + $2 WHERE cell = $1
