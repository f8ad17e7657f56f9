-- For how many seconds the coupon or template that is due longest has been due; null or negative: nothing is.
SELECT extract(epoch FROM now() - least(
    (SELECT min(due_at) FROM coupon_sweeps WHERE due_at < 'infinity'), (SELECT min(expires_at) FROM coupon_extensions)
))::float8
