-- What was set aside and is no row, in order. $1 the last one seen, $2 rows
SELECT s.id, s.template_id, s.serial, s.epoch, s.entry_epoch, s.entry_seq, s.user_ref, s.reason
FROM set_aside s
WHERE s.id > $1 AND NOT EXISTS (
    SELECT FROM user_coupons u WHERE u.template_id = s.template_id AND u.serial = s.serial AND u.epoch = s.epoch)
ORDER BY s.id LIMIT $2
