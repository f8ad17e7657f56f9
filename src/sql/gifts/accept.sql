-- Ends an offer with its coupon in the receiver's hands, under a new generation. No row: it is no longer offered, or over.
-- $1 gift, $2 receiver
WITH accepted AS (
    UPDATE coupon_gifts SET state = 'accepted', receiver_ref = $2, closed_at = now()
    WHERE id = $1 AND state = 'offered' AND expires_at > now() AND giver_ref <> $2
    RETURNING template_id, serial, gift_generation, giver_ref)
UPDATE user_coupons u
SET status = 1, user_ref = $2, first_user_ref = coalesce(u.first_user_ref, u.user_ref),
    gift_generation = u.gift_generation + 1
FROM accepted a
WHERE u.template_id = a.template_id AND u.serial = a.serial AND u.status = 3 AND u.user_ref = a.giver_ref
    AND u.gift_generation = a.gift_generation AND u.gift_generation < 255
RETURNING u.template_id, u.serial, u.epoch, u.status, u.gift_generation,
    (extract(epoch FROM u.acquired_at) * 1000)::int8 AS acquired, (extract(epoch FROM u.valid_from) * 1000)::int8 AS valid_from,
    (extract(epoch FROM u.expires_at) * 1000)::int8 AS expires, u.expires_at <= now() AS over, u.amount
