-- Stores a new rule set. $1 issuer, $2 issuer's id, $3 name, $4 description, $5 rules, $6 author.
INSERT INTO rule_sets (issuer, issuer_id, name, description, usage_rules, author_key_id, editor_key_ids)
VALUES ($1, $2, $3, $4, $5, $6, ARRAY[$6::integer])
RETURNING id, issuer, issuer_id, name, description, usage_rules, revision, author_key_id, editor_key_ids,
    created_at, updated_at
