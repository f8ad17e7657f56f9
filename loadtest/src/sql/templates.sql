-- Definitions of templates. $1 their ids.
SELECT id, definition, freed_at IS NOT NULL
FROM coupon_templates
WHERE id = ANY ($1)
