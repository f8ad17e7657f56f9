-- A page of what a user accepted, newest first. $1 user, $2 gift to go on behind (null: from the start), $3 most rows
SELECT
    g.id, g.template_id, g.serial, g.gift_generation, g.giver_ref, g.receiver_ref, g.state,
    (extract(epoch FROM g.offered_at) * 1000)::int8 AS offered, (extract(epoch FROM g.expires_at) * 1000)::int8 AS expires,
    (extract(epoch FROM g.closed_at) * 1000)::int8 AS closed, g.expires_at <= clock_timestamp() AS over
FROM coupon_gifts g
WHERE g.receiver_ref = $1 AND ($2::int8 IS NULL OR g.id < $2)
ORDER BY g.id DESC
LIMIT $3
