-- Coupons from one status to another. Lists of the same length: $1 templates, $2 serials, $3 statuses before,
-- $4 statuses after, $5 new ends in ms (null: as it was)
UPDATE user_coupons u SET status = m.to_status, expires_at = coalesce(to_timestamp(m.expires / 1000.0), u.expires_at)
FROM unnest($1::int4[], $2::int8[], $3::int2[], $4::int2[], $5::int8[])
    AS m (template_id, serial, from_status, to_status, expires)
WHERE u.template_id = m.template_id AND u.serial = m.serial AND u.status = m.from_status
