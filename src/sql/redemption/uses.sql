-- How many coupons of each template a user has in use on orders. $1 user, $2 templates
SELECT template_id, count(*) AS uses
FROM redemption_coupons
WHERE user_ref = $1 AND template_id = ANY ($2) AND state IN ('locked', 'used')
GROUP BY template_id
