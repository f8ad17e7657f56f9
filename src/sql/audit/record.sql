-- Writes what a transaction changes. $1 actor, $2 address or null, $3 request's id or null, $4 action, $5 subject,
-- $6 before or null, $7 after or null
INSERT INTO audit_log (actor, ip, request_id, action, subject, before, after) VALUES ($1, $2, $3, $4, $5, $6, $7)
