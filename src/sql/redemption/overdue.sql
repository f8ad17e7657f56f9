-- How many locks are over and not released yet, up to a bound, and the age of the oldest in seconds. $1 bound
SELECT count(*) AS locks, coalesce(extract(epoch FROM now() - min(lock_expires_at)), 0)::float8 AS age
FROM (SELECT lock_expires_at FROM redemptions WHERE status = 'locked' AND lock_expires_at <= now()
    ORDER BY lock_expires_at, order_id LIMIT $1) AS due
