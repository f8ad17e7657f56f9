-- Rows of these grants: by whom they were claimed, and when in ms. $1 templates, $2 serials, $3 epochs, each with its like
SELECT u.template_id, u.serial, u.epoch, coalesce(u.first_user_ref, u.user_ref), (extract(epoch FROM u.acquired_at) * 1000)::int8
FROM unnest($1::int4[], $2::int8[], $3::int4[]) AS g (template_id, serial, epoch)
JOIN user_coupons u ON u.template_id = g.template_id AND u.serial = g.serial AND u.epoch = g.epoch
