-- Stores a changed definition. $1 id, $2 revision it was made from, $3 issuer, $4 issuer's id, $5 name, $6 definition,
-- $7 start and $8 end of the claim window, $9 status, $10 who changed it (of a draft: may not approve it any more).
UPDATE coupon_templates
SET issuer = $3, issuer_id = $4, name = $5, definition = $6, starts_at = $7, ends_at = $8, status = $9,
    editor_key_ids = CASE WHEN $9 <> 'draft' OR $10 = ANY (editor_key_ids) THEN editor_key_ids
                          ELSE editor_key_ids || $10::integer END,
    revision = revision + 1, updated_at = now()
WHERE id = $1 AND revision = $2
