-- Reads a template that its owner may see, and keeps others from changing it. $1 id, $2 issuer and $3 issuer's id,
-- or null.
SELECT id, status, revision, redis_revision, definition, stock_generation, author_key_id,
    editor_key_ids, approver_key_id, reject_reason, created_at, updated_at, published_at, freed_at
FROM coupon_templates
WHERE id = $1 AND ($2::text IS NULL OR (issuer = $2 AND issuer_id = $3))
FOR UPDATE
