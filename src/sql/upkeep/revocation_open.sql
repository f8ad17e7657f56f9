-- How many revocations are not carried out to their end.
SELECT count(*) FROM revocations WHERE status <> 'done'
