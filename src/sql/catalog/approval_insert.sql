-- Asks for an approval: the worker sends it. $1 id, $2 template, $3 its revision, $4 what is sent
INSERT INTO approval_requests (id, template_id, revision, body) VALUES ($1, $2, $3, $4)
