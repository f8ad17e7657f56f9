-- The next coupons of a user in the order of the wallet's index, and whether each is in the revocation's scope. $1 user,
-- $2 $3 $4 acquired, template and serial of the last one seen, $5 granted until, $6 template, or null, $7 $8 the owner
-- whose templates it is bound to, or null, $9 most rows
SELECT u.template_id, u.serial, u.status, u.expires_at <= now() AS over, u.acquired_at,
    ($6::int4 IS NULL OR u.template_id = $6) AND ($7::text IS NULL OR EXISTS (SELECT FROM coupon_templates t
        WHERE t.id = u.template_id AND t.issuer = $7 AND t.issuer_id = $8)) AS mine
FROM user_coupons u
WHERE u.user_ref = $1 AND (u.acquired_at, u.template_id, u.serial) > ($2::timestamptz, $3::int4, $4::int8)
    AND u.acquired_at <= $5
ORDER BY u.acquired_at, u.template_id, u.serial LIMIT $9
