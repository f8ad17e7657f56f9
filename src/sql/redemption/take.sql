-- Coupons of a user from unused to locked, while they hold. Lists of the same length: $1 templates, $2 serials; $3 user
UPDATE user_coupons u SET status = 2
FROM unnest($1::int4[], $2::int8[]) AS n (template_id, serial)
-- The user is compared in a way that no index serves: each row is found by its key. Left to itself PostgreSQL, which
-- knows users of few coupons, reads all that the user has: two seconds where they are 100,000.
WHERE u.template_id = n.template_id AND u.serial = n.serial AND u.user_ref || '' = $3 AND u.status = 1
    AND u.expires_at > clock_timestamp()
