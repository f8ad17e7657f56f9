-- 64 claims in one transaction, as a gateway with natural batches would send them: free units that nobody
-- else has locked, each for a user of its own.
\set user random(1, 1000000000000)
WITH free AS (
  SELECT serial FROM bench_units WHERE user_ref IS NULL ORDER BY serial LIMIT 64 FOR UPDATE SKIP LOCKED
), numbered AS (
  SELECT serial, row_number() OVER () AS number FROM free
)
UPDATE bench_units SET user_ref = 'u' || lpad((:user + number)::text, 13, '0')
FROM numbered WHERE bench_units.serial = numbered.serial;
