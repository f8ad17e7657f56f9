-- Nobody waits for the answer any more. $1 template
UPDATE approval_requests SET state = 'withdrawn', decided_at = now(), next_attempt_at = NULL
WHERE template_id = $1 AND state = 'pending'
