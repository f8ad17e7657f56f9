-- Moves the chain's head. $1 position, $2 its hash, $3 last id looked at
UPDATE audit_head SET position = $1, chain_hash = $2, looked_to = $3
