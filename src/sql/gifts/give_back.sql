-- Ends offers with their coupons back in their givers' hands; returns those that were still offered.
-- $1 gifts, $2 the state in which they end
WITH closed AS (
    UPDATE coupon_gifts SET state = $2, closed_at = now() WHERE id = ANY ($1) AND state = 'offered'
    RETURNING *),
back AS (
    UPDATE user_coupons u SET status = 1
    FROM closed c
    WHERE u.template_id = c.template_id AND u.serial = c.serial AND u.status = 3 AND u.user_ref = c.giver_ref
        AND u.gift_generation = c.gift_generation
    RETURNING u.template_id, u.serial)
SELECT
    g.id, g.template_id, g.serial, g.gift_generation, g.giver_ref, g.receiver_ref, g.state,
    (extract(epoch FROM g.offered_at) * 1000)::int8 AS offered, (extract(epoch FROM g.expires_at) * 1000)::int8 AS expires,
    (extract(epoch FROM g.closed_at) * 1000)::int8 AS closed, g.expires_at <= clock_timestamp() AS over
FROM closed g JOIN back USING (template_id, serial)
ORDER BY g.template_id, g.serial
