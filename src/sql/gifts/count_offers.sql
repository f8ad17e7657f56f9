-- How often a coupon was offered, up to a bound. $1 template, $2 serial, $3 the bound
SELECT count(*) FROM (SELECT FROM coupon_gifts WHERE template_id = $1 AND serial = $2 LIMIT $3) AS offers
