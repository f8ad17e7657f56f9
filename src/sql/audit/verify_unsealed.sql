-- A page of records by id, each with whether it is sealed. $1 last id seen, $2 last id wanted, $3 most rows
SELECT l.id, c.record_id IS NOT NULL AS is_sealed
FROM (SELECT id FROM audit_log WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3) AS l
LEFT JOIN audit_chain c ON c.record_id = l.id
ORDER BY l.id
