-- Gives every template that was ever published a cursor.
INSERT INTO coupon_sweeps (template_id)
SELECT t.id FROM coupon_templates t
WHERE t.status NOT IN ('draft', 'pending_approval', 'approved')
    AND NOT EXISTS (SELECT FROM coupon_sweeps s WHERE s.template_id = t.id)
ON CONFLICT DO NOTHING
