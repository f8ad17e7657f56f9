-- Definitions of templates. $1 ids
SELECT id, definition FROM coupon_templates WHERE id = ANY ($1)
