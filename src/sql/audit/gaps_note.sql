-- Notes ids that were passed and not there. Lists of the same length: $1 first, $2 last ids. The horizon lies behind
-- every transaction that may have taken one of them.
INSERT INTO audit_gaps (first_id, last_id, horizon)
SELECT g.first_id, g.last_id, pg_snapshot_xmax(pg_current_snapshot())
FROM unnest($1::int8[], $2::int8[]) AS g (first_id, last_id)
