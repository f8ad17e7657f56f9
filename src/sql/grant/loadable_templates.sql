-- Templates that a cell must hold, freed ones as tombstones, in order. $1 the last id seen, $2 rows
SELECT id, status, revision, stock_generation, definition, freed_at IS NOT NULL,
    (extract(epoch FROM starts_at) * 1000)::int8, (extract(epoch FROM ends_at) * 1000)::int8
FROM coupon_templates
WHERE id > $1 AND status IN ('published', 'paused', 'stopped', 'finished')
ORDER BY id LIMIT $2
