-- One claim on one stock row: the row's lock is held until the commit is on disk.
\set user random(1, 1000000000000)
WITH taken AS (
  UPDATE bench_stock SET next = next + 1 WHERE id = 1 AND next <= last RETURNING next - 1 AS serial
)
INSERT INTO bench_claims (serial, user_ref) SELECT serial, 'u' || lpad((:user)::text, 13, '0') FROM taken ON CONFLICT DO NOTHING;
