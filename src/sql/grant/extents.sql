-- How far rows and set-asides of templates go from a serial on: the highest of each, 0 for none, within the stock or not.
-- What a diverged history granted was never stock of this one. $1 templates, $2 the serial of each
SELECT t.id,
    coalesce((SELECT max(u.serial) FROM user_coupons u WHERE u.template_id = t.id AND u.serial >= t.first), 0),
    coalesce((SELECT max(a.serial) FROM set_aside a
        WHERE a.template_id = t.id AND a.serial >= t.first AND a.reason NOT IN ('diverged', 'wiped')), 0)
FROM unnest($1::int4[], $2::int8[]) AS t (id, first)
