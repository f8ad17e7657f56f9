-- The template that is due longest and that nobody else sweeps now.
SELECT template_id, serial FROM coupon_sweeps WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
