-- From here on the cell may be open under this epoch. No row: a higher epoch was taken meanwhile. $1 cell, $2 epoch
UPDATE cells SET opened_at = now() WHERE cell = $1 AND epoch = $2
