-- Which template a request is about. $1 id
SELECT template_id FROM approval_requests WHERE id = $1
