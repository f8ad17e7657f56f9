-- A page of the chain, each position with its record as it is now (id null: it is gone). $1 last position seen,
-- $2 last position wanted, $3 most rows
SELECT c.position, c.record_id, c.record_hash, c.previous_hash, c.chain_hash,
    l.id, l.at, l.actor, l.ip, l.request_id, l.action, l.subject, l.before::text, l.after::text
FROM audit_chain c
LEFT JOIN audit_log l ON l.id = c.record_id
WHERE c.position > $1 AND c.position <= $2
ORDER BY c.position
LIMIT $3
