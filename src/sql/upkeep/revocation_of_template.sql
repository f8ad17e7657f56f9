-- The next coupons of a template. $1 template, $2 last serial seen, $3 most rows
SELECT template_id, serial, status, expires_at <= now() AS over, acquired_at, true AS mine FROM user_coupons
WHERE template_id = $1 AND serial > $2
ORDER BY serial LIMIT $3
