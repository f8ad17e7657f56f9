-- The next coupons of an issuance, and whether each is in the revocation's scope. $1 issuance, $2 $3 template and serial
-- of the last one seen, $4 $5 the owner whose templates it is bound to, or null, $6 most rows
SELECT u.template_id, u.serial, u.status, u.expires_at <= now() AS over, u.acquired_at,
    $4::text IS NULL OR EXISTS (SELECT FROM coupon_templates t
        WHERE t.id = u.template_id AND t.issuer = $4 AND t.issuer_id = $5) AS mine
FROM user_coupons u
WHERE u.issuance_id = $1 AND (u.template_id, u.serial) > ($2::int4, $3::int8)
ORDER BY u.template_id, u.serial LIMIT $6
