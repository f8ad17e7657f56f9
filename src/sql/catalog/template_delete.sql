-- Deletes a draft. $1 id, $2 revision.
DELETE FROM coupon_templates WHERE id = $1 AND revision = $2 AND status = 'draft'
