-- Reads a rule set that its owner may see, and keeps others from changing it. $1 id, $2 issuer and $3 issuer's id,
-- or null.
SELECT id, issuer, issuer_id, name, description, usage_rules, revision, author_key_id, editor_key_ids,
    created_at, updated_at
FROM rule_sets
WHERE id = $1 AND ($2::text IS NULL OR (issuer = $2 AND issuer_id = $3))
FOR UPDATE
