-- Offers a coupon, until its own end at the latest. No row: it is not the user's, or not free.
-- $1 template, $2 serial, $3 gift generation, $4 user, $5 hours that the offer stands
WITH offered AS (
    UPDATE user_coupons SET status = 3
    WHERE template_id = $1 AND serial = $2 AND gift_generation = $3 AND user_ref = $4 AND status = 1
        AND expires_at > now() AND gift_generation < 255
    RETURNING template_id, serial, gift_generation, user_ref, expires_at)
INSERT INTO coupon_gifts AS g (template_id, serial, gift_generation, giver_ref, expires_at)
SELECT template_id, serial, gift_generation, user_ref, least(expires_at, now() + make_interval(hours => $5))
FROM offered
RETURNING
    g.id, g.template_id, g.serial, g.gift_generation, g.giver_ref, g.receiver_ref, g.state,
    (extract(epoch FROM g.offered_at) * 1000)::int8 AS offered, (extract(epoch FROM g.expires_at) * 1000)::int8 AS expires,
    (extract(epoch FROM g.closed_at) * 1000)::int8 AS closed, g.expires_at <= clock_timestamp() AS over
