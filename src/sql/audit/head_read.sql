-- The chain's head, and what is not sealed yet: how many records ($1 at most) and how old the first is, in seconds.
SELECT h.position, h.chain_hash, u.records, coalesce(extract(epoch FROM clock_timestamp() - u.oldest), 0)::float8 AS age
FROM audit_head h,
    LATERAL (SELECT count(*) AS records, min(r.at) AS oldest
        FROM (SELECT l.at FROM audit_log l WHERE l.id > h.looked_to ORDER BY l.id LIMIT $1) AS r) AS u
