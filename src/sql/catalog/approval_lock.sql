-- Reads a request and keeps others from deciding it. $1 id
SELECT id, template_id, revision, state, reason, decided_by, decided_at FROM approval_requests WHERE id = $1 FOR UPDATE
