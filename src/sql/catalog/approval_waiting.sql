-- How many requests have not arrived.
SELECT count(*) FROM approval_requests WHERE next_attempt_at IS NOT NULL
