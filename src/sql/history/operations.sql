-- What happened to a coupon after its grant, oldest first. $1 template, $2 serial, $3 the operation to go on behind,
-- $4 most rows
SELECT id, operation, from_status, to_status, user_ref, gift_generation, cause_kind, cause_id, actor,
    (extract(epoch FROM at) * 1000)::int8
FROM coupon_operations
WHERE template_id = $1 AND serial = $2 AND id > $3
ORDER BY id
LIMIT $4::int8
