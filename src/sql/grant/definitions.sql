-- Definitions of templates, and the last serial that each has. $1 ids
SELECT t.id, t.definition, (SELECT coalesce(max(r.last_serial), 0) FROM stock_ranges r WHERE r.template_id = t.id)
FROM coupon_templates t WHERE t.id = ANY ($1)
