-- Appends to the chain. Lists of the same length: $1 positions, $2 records, $3 their hashes, $4 hashes of the positions
-- before, $5 of these
INSERT INTO audit_chain (position, record_id, record_hash, previous_hash, chain_hash)
SELECT s.position, s.record_id, s.record_hash, s.previous_hash, s.chain_hash
FROM unnest($1::int8[], $2::int8[], $3::bytea[], $4::bytea[], $5::bytea[])
    AS s (position, record_id, record_hash, previous_hash, chain_hash)
