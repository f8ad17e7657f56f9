-- An offer, by the time at which it is read: a transaction may have waited for its coupon. $1 gift
SELECT
    g.id, g.template_id, g.serial, g.gift_generation, g.giver_ref, g.receiver_ref, g.state,
    (extract(epoch FROM g.offered_at) * 1000)::int8 AS offered, (extract(epoch FROM g.expires_at) * 1000)::int8 AS expires,
    (extract(epoch FROM g.closed_at) * 1000)::int8 AS closed, g.expires_at <= clock_timestamp() AS over
FROM coupon_gifts g WHERE g.id = $1
