-- Records beyond the last id looked at. $1 that id, $2 most records
SELECT id, at, actor, ip, request_id, action, subject, before::text, after::text
FROM audit_log
WHERE id > $1
ORDER BY id
LIMIT $2
