-- Where log, chain and head end. Head: null if its row is gone.
SELECT (SELECT max(id) FROM audit_log) AS last_id, (SELECT max(position) FROM audit_chain) AS last_position,
    (SELECT position FROM audit_head) AS head, (SELECT chain_hash FROM audit_head) AS head_hash
