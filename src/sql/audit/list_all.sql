-- Audit records of all, newest first, and the place of the last one looked at. $1 from, $2 until, $3 $4 place of
-- the last record seen, $5 most records looked at, $6 most given
WITH looked_at AS MATERIALIZED (
        SELECT id, at, actor, action
        FROM audit_log
        WHERE at >= coalesce($1::timestamptz, '-infinity') AND at < coalesce($2::timestamptz, 'infinity')
            AND (at, id) < (coalesce($3::timestamptz, 'infinity'), coalesce($4::int8, 9223372036854775807))
        ORDER BY at DESC, id DESC
        LIMIT $5),
    page AS (
        SELECT id, at
        FROM looked_at
        ORDER BY at DESC, id DESC
        LIMIT $6)
SELECT e.looked_at, e.last_at, e.last_id, l.id, l.at, l.actor, l.ip, l.request_id, l.action, l.subject, l.before, l.after,
    c.position
FROM (SELECT count(*) AS looked_at, min(at) AS last_at, (array_agg(id ORDER BY at, id))[1] AS last_id FROM looked_at) AS e
LEFT JOIN page p ON true
LEFT JOIN audit_log l ON l.id = p.id
LEFT JOIN audit_chain c ON c.record_id = p.id
ORDER BY p.at DESC, p.id DESC
