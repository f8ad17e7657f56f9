-- A redemption is cancelled, or its time is over. $1 order, $2 status after
UPDATE redemptions SET status = $2, released_at = now()
WHERE order_id = $1 AND (status = 'locked' OR status = 'timed_out' AND $2 = 'cancelled')
