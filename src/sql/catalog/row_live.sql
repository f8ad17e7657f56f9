-- One template that was ever published, as a cell must have it, with its ranges. $1 id
SELECT t.id, t.status, t.revision, t.redis_revision, t.definition, t.stock_generation, t.freed_at IS NOT NULL AS freed,
    ARRAY(SELECT r.first_serial FROM stock_ranges r WHERE r.template_id = t.id ORDER BY r.first_serial) AS firsts,
    ARRAY(SELECT r.last_serial FROM stock_ranges r WHERE r.template_id = t.id ORDER BY r.first_serial) AS lasts
FROM coupon_templates t
WHERE t.status NOT IN ('draft', 'pending_approval', 'approved') AND t.id = $1
