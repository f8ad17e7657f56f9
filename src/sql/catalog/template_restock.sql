-- Records that stock was added. $1 id, $2 revision, $3 definition with the new total, $4 status.
UPDATE coupon_templates
SET definition = $3, status = $4, stock_generation = stock_generation + 1, revision = revision + 1, updated_at = now()
WHERE id = $1 AND revision = $2 AND freed_at IS NULL
