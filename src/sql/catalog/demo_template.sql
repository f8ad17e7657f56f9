-- The demo's template, if it was published before. $1 its name
SELECT id FROM coupon_templates WHERE issuer = 'platform' AND issuer_id = '' AND name = $1 AND published_at IS NOT NULL
