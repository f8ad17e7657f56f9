-- The first serial of a template behind a gap that is a row or was set aside. $1 template, $2 first serial, $3 last serial
SELECT least(
    (SELECT min(serial) FROM user_coupons WHERE template_id = $1 AND serial BETWEEN $2 AND $3),
    (SELECT min(serial) FROM set_aside
        WHERE template_id = $1 AND serial BETWEEN $2 AND $3 AND reason NOT IN ('diverged', 'wiped')))
