-- The next coupons of a template. $1 template, $2 last serial seen, $3 most rows
SELECT serial, status, expires_at <= now() AS over FROM user_coupons
WHERE template_id = $1 AND serial > $2
ORDER BY serial LIMIT $3
