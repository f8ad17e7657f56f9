-- A redemption is used. $1 order
UPDATE redemptions SET status = 'used', used_at = now(), conflict_at = NULL
WHERE order_id = $1 AND status IN ('locked', 'timed_out')
RETURNING (extract(epoch FROM used_at) * 1000)::int8 AS used_at
