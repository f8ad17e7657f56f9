-- How many rows a cell that has nothing is given back, as near as the highest serials tell it. No parameters
SELECT coalesce(sum(u.serial), 0)::int8
FROM coupon_templates t CROSS JOIN LATERAL (
    SELECT serial FROM user_coupons WHERE template_id = t.id ORDER BY serial DESC LIMIT 1) u
WHERE t.freed_at IS NULL
