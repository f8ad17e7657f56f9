-- Which of these grants are rows already, or were set aside. $1 templates, $2 serials, $3 epochs (lists of the same length)
SELECT g.template_id, g.serial, g.epoch
FROM unnest($1::int4[], $2::int8[], $3::int4[]) AS g (template_id, serial, epoch)
WHERE EXISTS (SELECT FROM user_coupons u WHERE u.template_id = g.template_id AND u.serial = g.serial AND u.epoch = g.epoch)
    OR EXISTS (SELECT FROM set_aside s WHERE s.template_id = g.template_id AND s.serial = g.serial AND s.epoch = g.epoch)
