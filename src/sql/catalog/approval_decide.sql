-- Writes a decision down; what is still to be sent is not. $1 id, $2 state, $3 reason or null, $4 by whom or null
UPDATE approval_requests
SET state = $2, reason = $3, decided_by = $4, decided_at = now(), next_attempt_at = NULL
WHERE id = $1 AND state = 'pending'
RETURNING id, template_id, revision, state, reason, decided_by, decided_at
