-- The chain's head, for the one process that seals now (no row: another one does), and the oldest transaction that
-- still runs.
SELECT position, chain_hash, looked_to, pg_snapshot_xmin(pg_current_snapshot())::text AS oldest
FROM audit_head
FOR UPDATE SKIP LOCKED
