-- Counts coupons issued, in the slot of this connection. Lists of the same length: $1 templates, $2 seconds of the
-- grants since 1970, $3 coupons. A template that is not there has no coupons and no counters.
INSERT INTO coupon_counters AS c (template_id, day, slot, issued)
SELECT d.template_id, (to_timestamp(d.second) AT TIME ZONE usable_timezone(t.timezone))::date AS day,
    pg_backend_pid() % 16, sum(d.issued)
FROM unnest($1::int4[], $2::int8[], $3::int8[]) AS d (template_id, second, issued)
JOIN coupon_templates t ON t.id = d.template_id
GROUP BY d.template_id, day
ORDER BY d.template_id, day
ON CONFLICT (template_id, day, slot) DO UPDATE SET issued = c.issued + excluded.issued
