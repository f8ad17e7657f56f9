-- One page of rule sets by id. $1 last id seen, $2 most rows, $3 issuer and $4 issuer's id, or null.
SELECT id, issuer, issuer_id, name, description, usage_rules, revision, author_key_id, editor_key_ids,
    created_at, updated_at
FROM rule_sets
WHERE id > $1 AND ($3::text IS NULL OR (issuer = $3 AND issuer_id = $4))
ORDER BY id
LIMIT $2
