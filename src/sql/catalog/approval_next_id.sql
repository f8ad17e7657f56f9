-- The next request's id, which its own body names.
SELECT nextval(pg_get_serial_sequence('approval_requests', 'id'))
