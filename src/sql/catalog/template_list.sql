-- One page of templates by id. $1 last id seen, $2 most rows, $3 issuer and $4 issuer's id, or null, $5 status, or
-- null.
SELECT id, status, revision, redis_revision, definition, stock_generation, author_key_id,
    editor_key_ids, approver_key_id, reject_reason, created_at, updated_at, published_at, freed_at
FROM coupon_templates
WHERE id > $1 AND ($3::text IS NULL OR (issuer = $3 AND issuer_id = $4)) AND ($5::text IS NULL OR status = $5)
ORDER BY id
LIMIT $2
