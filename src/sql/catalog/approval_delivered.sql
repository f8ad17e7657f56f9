-- A request has arrived. $1 id
UPDATE approval_requests SET delivered_at = now(), next_attempt_at = NULL, last_error = NULL WHERE id = $1
