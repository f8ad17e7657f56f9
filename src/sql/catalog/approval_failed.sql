-- A request has not arrived. $1 id, $2 why
UPDATE approval_requests SET last_error = $2 WHERE id = $1
