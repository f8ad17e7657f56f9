-- Records that have come into gaps and are not sealed. Each gap is looked up in the log by its bounds, and each record in
-- the chain by its id, whatever the planner thinks of a table that is nearly always empty. $1 most records
SELECT l.id, l.at, l.actor, l.ip, l.request_id, l.action, l.subject, l.before, l.after
FROM audit_gaps g
CROSS JOIN LATERAL (
    SELECT r.id, r.at, r.actor, r.ip, r.request_id, r.action, r.subject, r.before::text, r.after::text
    FROM audit_log r
    WHERE r.id BETWEEN g.first_id AND g.last_id
        AND (SELECT c.position FROM audit_chain c WHERE c.record_id = r.id) IS NULL
    ORDER BY r.id
    LIMIT $1) AS l
LIMIT $1
