-- The first row of a template behind a gap of its serials. $1 template, $2 first serial, $3 last serial
SELECT min(serial) FROM user_coupons WHERE template_id = $1 AND serial BETWEEN $2 AND $3
