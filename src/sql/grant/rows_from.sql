-- Rows and set-asides of a template from a serial on, ascending: what Redis may have lost. The row comes before what
-- was set aside under its serial. What a diverged history granted was never stock of this one.
-- $1 template, $2 first serial, $3 rows, $4 the last serial of the template's stock
(SELECT serial, epoch, coalesce(first_user_ref, user_ref) AS user_ref, claim_key_hash, ip_hash, device_hash,
    (extract(epoch FROM acquired_at) * 1000)::int8 AS acquired, 0 AS source
 FROM user_coupons WHERE template_id = $1 AND serial BETWEEN $2 AND $4 ORDER BY serial LIMIT $3)
UNION ALL
(SELECT serial, epoch, user_ref, claim_key_hash, ip_hash, device_hash,
    (extract(epoch FROM acquired_at) * 1000)::int8, 1
 FROM set_aside a
 WHERE template_id = $1 AND serial BETWEEN $2 AND $4 AND reason NOT IN ('diverged', 'wiped') AND EXISTS (
    SELECT FROM stock_ranges r WHERE r.template_id = $1 AND a.serial BETWEEN r.first_serial AND r.last_serial)
 ORDER BY serial LIMIT $3)
ORDER BY serial, source LIMIT $3
