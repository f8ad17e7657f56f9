-- Makes coupons of a template, of a user each who has the serial's number for a name, and counts them as the flusher
-- would. $1 template, $2 the last serial
WITH made AS (
    INSERT INTO user_coupons (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at)
    SELECT $1, n, 1, n::text, n, now() - interval '1 day', now() - interval '1 day', now() + interval '30 days'
    FROM generate_series(1, $2::int8) AS n
    RETURNING acquired_at
)
INSERT INTO coupon_counters (template_id, day, slot, issued)
SELECT $1, (acquired_at AT TIME ZONE 'UTC')::date AS day, 0, count(*) FROM made GROUP BY day
