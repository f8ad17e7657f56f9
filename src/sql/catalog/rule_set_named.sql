-- Reads a rule set by its name, and keeps it as it is until the template that copies it is stored. $1 issuer,
-- $2 issuer's id, $3 name.
SELECT id, issuer, issuer_id, name, description, usage_rules, revision, author_key_id, editor_key_ids,
    created_at, updated_at
FROM rule_sets
WHERE issuer = $1 AND issuer_id = $2 AND name = $3
FOR SHARE
