-- Becomes the process that looks at the ledger, if none is. Held until the connection ends.
SELECT pg_try_advisory_lock(hashtext('floodgate ledger watch'), 0)
