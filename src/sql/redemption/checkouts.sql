-- Checkouts, but this one, that a user has locked coupons for in the last seconds: how many, and when the first of
-- them was. $1 user, $2 this checkout, $3 seconds
SELECT count(DISTINCT checkout_id) AS checkouts, (extract(epoch FROM min(locked_at)) * 1000)::int8 AS first_at,
    (extract(epoch FROM now()) * 1000)::int8 AS now
FROM redemptions
WHERE user_ref = $1 AND locked_at > now() - $3::int4 * interval '1 second' AND checkout_id <> $2
