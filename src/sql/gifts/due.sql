-- Locks offers whose time is over, and their coupons, the oldest first; what somebody else holds is left to them.
-- $1 most rows
SELECT g.id FROM coupon_gifts g JOIN user_coupons u ON u.template_id = g.template_id AND u.serial = g.serial
WHERE g.state = 'offered' AND g.expires_at <= now()
ORDER BY g.expires_at, g.id
LIMIT $1
FOR UPDATE SKIP LOCKED
