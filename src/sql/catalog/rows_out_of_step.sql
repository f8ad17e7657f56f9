-- Templates whose revision Redis is not known to hold, those that wait longest first. $1 most rows.
SELECT id, count(*) OVER () AS in_all
FROM coupon_templates
WHERE redis_revision < revision AND status NOT IN ('draft', 'pending_approval', 'approved')
ORDER BY updated_at, id
LIMIT $1
