-- Raises a cell's epoch above PostgreSQL's and Redis', where this session is the cell's flusher: the lock that it took
-- may have slipped away from under it. A row always; held is false where another session has the lock, epoch is
-- null where none is left. $1 cell, $2 Redis' epoch
WITH mine AS MATERIALIZED (
    SELECT pg_try_advisory_lock(hashtext('floodgate flusher'), $1::int2) AS held
), raised AS (
    UPDATE cells SET epoch = greatest(cells.epoch, $2) + 1
    FROM mine WHERE mine.held AND cell = $1 AND greatest(cells.epoch, $2) < 65535
    RETURNING cells.epoch
)
SELECT mine.held, raised.epoch FROM mine LEFT JOIN raised ON true
