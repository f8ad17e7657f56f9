-- How many coupons of a template a user holds or was granted first, beside one. $1 user, $2 template, $3 serials that the
-- user was granted and that may be no rows yet, $4 the serial that does not count
SELECT count(*) FROM (
    SELECT serial FROM user_coupons WHERE user_ref = $1 AND template_id = $2
    -- What was granted to the user and given away since.
    UNION SELECT serial FROM coupon_gifts
        WHERE giver_ref = $1 AND template_id = $2 AND state = 'accepted' AND gift_generation = 0
    UNION SELECT unnest($3::int8[])) AS counted
WHERE serial <> $4
