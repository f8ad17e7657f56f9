-- Becomes the flusher of a cell as soon as the present one lets go. $1 cell
SELECT pg_advisory_lock(hashtext('floodgate flusher'), $1)
