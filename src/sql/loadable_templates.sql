-- Templates that a cell must hold, freed ones as tombstones, in order. $1 the last id seen, $2 rows
SELECT id, status, revision, stock_generation, definition, freed_at IS NOT NULL
FROM coupon_templates
WHERE id > $1 AND status IN ('published', 'paused', 'stopped', 'finished')
ORDER BY id LIMIT $2
