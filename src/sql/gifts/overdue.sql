-- Seconds since the oldest offer was over that has not been returned
SELECT coalesce(extract(epoch FROM now() - min(expires_at)), 0)::float8
FROM coupon_gifts WHERE state = 'offered' AND expires_at <= now()
