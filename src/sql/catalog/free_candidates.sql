-- Templates that ended long ago and whose keys Redis still has. $1 seconds since the end, $2 most rows.
SELECT id
FROM coupon_templates
WHERE status NOT IN ('draft', 'pending_approval', 'approved') AND freed_at IS NULL AND redis_revision = revision
    AND ends_at < now() - make_interval(secs => $1)
ORDER BY ends_at, id
LIMIT $2
