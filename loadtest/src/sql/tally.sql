-- How many coupons of a template there are, the highest serial, and how many were set aside.
-- $1 the template
SELECT count(*), coalesce(max(serial), 0), (SELECT count(*) FROM set_aside) FROM user_coupons WHERE template_id = $1
