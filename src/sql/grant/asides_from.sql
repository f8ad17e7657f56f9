-- Grants of a template that were set aside, from a serial on, ascending, the first of each: their serials are gone, too.
-- What a diverged history granted was never stock of this one. $1 template, $2 first serial, $3 rows, $4 the last serial
SELECT DISTINCT ON (serial)
    serial, epoch, user_ref, claim_key_hash, ip_hash, device_hash, (extract(epoch FROM acquired_at) * 1000)::int8
FROM set_aside a
WHERE template_id = $1 AND serial BETWEEN $2 AND $4 AND reason NOT IN ('diverged', 'wiped') AND EXISTS (
    SELECT FROM stock_ranges r WHERE r.template_id = $1 AND a.serial BETWEEN r.first_serial AND r.last_serial)
ORDER BY serial, id LIMIT $3
