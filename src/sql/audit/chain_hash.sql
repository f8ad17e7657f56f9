-- The hash at a position of the chain. $1 position
SELECT chain_hash FROM audit_chain WHERE position = $1
