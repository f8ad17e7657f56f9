-- Which of these grants are rows. $1 templates, $2 serials, $3 epochs, each with its like
SELECT g.template_id, g.serial, g.epoch
FROM unnest($1::int4[], $2::int8[], $3::int4[]) AS g (template_id, serial, epoch)
JOIN user_coupons u ON u.template_id = g.template_id AND u.serial = g.serial AND u.epoch = g.epoch
