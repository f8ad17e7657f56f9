-- Locks whose time is over, for one worker at a time. $1 most orders, $2 orders to leave out
SELECT order_id, (extract(epoch FROM now()) * 1000)::int8 AS now
FROM redemptions WHERE status = 'locked' AND lock_expires_at <= now() AND order_id <> ALL ($2)
ORDER BY lock_expires_at, order_id LIMIT $1 FOR UPDATE SKIP LOCKED
