-- Moves a template's cursor and says when to look again: when the first coupon behind it expires, if it holds one that
-- does, and not within the pause; a template that is freed has no grants to come. $1 template, $2 serial, $3 whether the
-- coupon behind the cursor still holds, $4 pause in seconds
UPDATE coupon_sweeps s SET serial = $2, due_at = CASE
    WHEN $3::bool THEN greatest(now() + $4::int4 * interval '1 second', (SELECT u.expires_at FROM user_coupons u
        WHERE u.template_id = $1 AND u.serial > $2 ORDER BY u.serial LIMIT 1))
    WHEN $4::int4 > 0 AND t.freed_at IS NOT NULL THEN 'infinity'
    ELSE now() + $4::int4 * interval '1 second' END
FROM coupon_templates t
WHERE s.template_id = $1 AND t.id = $1
