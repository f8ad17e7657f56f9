-- Raises a cell's epoch above PostgreSQL's and Redis'. No row: no epoch is left. $1 cell, $2 Redis' epoch
UPDATE cells SET epoch = greatest(epoch, $2) + 1 WHERE cell = $1 AND greatest(epoch, $2) < 65535 RETURNING epoch
