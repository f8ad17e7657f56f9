-- Templates whose revision Redis is not known to hold, in any order: those that fail again and again must not stand
-- before the others. $1 most rows.
SELECT id, count(*) OVER () AS in_all
FROM coupon_templates
WHERE redis_revision < revision AND status NOT IN ('draft', 'pending_approval', 'approved')
ORDER BY random()
LIMIT $1
