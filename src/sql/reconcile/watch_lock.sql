-- Becomes the process that compares Redis with PostgreSQL, if none is. Held until the connection ends.
SELECT pg_try_advisory_lock(hashtext('floodgate reconcile'), 0)
