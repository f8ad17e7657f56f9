-- Marks published templates finished whose claim window is over; gives what it did. $1 most rows.
UPDATE coupon_templates
SET status = 'finished', revision = revision + 1, updated_at = now()
WHERE status = 'published' AND ends_at <= now() AND id IN (
    SELECT id FROM coupon_templates WHERE status = 'published' AND ends_at <= now() AND freed_at IS NULL
    ORDER BY ends_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id, jsonb_build_object('status', 'published') AS before, jsonb_build_object('status', status) AS after
