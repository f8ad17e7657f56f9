-- Which of these records are not sealed. $1 ids
SELECT l.id FROM unnest($1::int8[]) AS l (id)
WHERE NOT EXISTS (SELECT FROM audit_chain c WHERE c.record_id = l.id)
ORDER BY l.id
