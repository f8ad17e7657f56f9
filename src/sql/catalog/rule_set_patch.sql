-- Stores a changed rule set. $1 id, $2 revision it was made from, $3 name, $4 description, $5 rules, $6 who
-- changed it.
UPDATE rule_sets
SET name = $3, description = $4, usage_rules = $5,
    editor_key_ids = CASE WHEN $6 = ANY (editor_key_ids) THEN editor_key_ids ELSE editor_key_ids || $6::integer END,
    revision = revision + 1, updated_at = now()
WHERE id = $1 AND revision = $2
RETURNING id, issuer, issuer_id, name, description, usage_rules, revision, author_key_id, editor_key_ids,
    created_at, updated_at
