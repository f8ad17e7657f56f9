-- Extended coupons whose new time is over. $1 most rows
SELECT template_id, serial FROM coupon_extensions WHERE expires_at <= now() ORDER BY expires_at LIMIT $1
