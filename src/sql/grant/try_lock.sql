-- Becomes the flusher of a cell, if nobody is. Held until the connection ends. $1 cell
SELECT pg_try_advisory_lock(hashtext('floodgate flusher'), $1)
