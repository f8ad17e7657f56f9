-- Templates on sale whose stock can run out or come back, by id. $1 last id seen, $2 most rows.
SELECT id, status, stock_generation
FROM coupon_templates
WHERE id > $1 AND status IN ('published', 'finished') AND starts_at <= now() AND now() < ends_at
    AND freed_at IS NULL AND redis_revision = revision AND definition #>> '{stock,total}' <> '-1'
ORDER BY id
LIMIT $2
