-- Stores a new draft. $1 issuer, $2 issuer's id, $3 name, $4 definition, $5 start and $6 end of the claim window, $7
-- author.
INSERT INTO coupon_templates
    (issuer, issuer_id, name, status, definition, starts_at, ends_at, author_key_id, editor_key_ids)
VALUES ($1, $2, $3, 'draft', $4, $5, $6, $7, ARRAY[$7::integer])
RETURNING id
