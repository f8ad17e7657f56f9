-- How far rows and set-asides of templates go: the highest serial of each, 0 for none. What a diverged history granted was
-- never stock of this one. $1 templates
SELECT t.id,
    coalesce((SELECT max(u.serial) FROM user_coupons u WHERE u.template_id = t.id), 0),
    coalesce((SELECT max(a.serial) FROM set_aside a
        WHERE a.template_id = t.id AND a.reason NOT IN ('diverged', 'wiped')), 0)
FROM unnest($1::int4[]) AS t (id)
