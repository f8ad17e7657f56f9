-- Traces steps of coupons. Lists of the same length: $1 templates, $2 serials, $3 operations, $4 statuses before,
-- $5 statuses after, $6 holders after, $7 gift generations after; for all: $8 $9 kind and id of the cause, $10 actor
INSERT INTO coupon_operations
    (template_id, serial, operation, from_status, to_status, user_ref, gift_generation, cause_kind, cause_id, actor)
SELECT s.template_id, s.serial, s.operation, s.from_status, s.to_status, s.user_ref, s.gift_generation, $8, $9, $10
FROM unnest($1::int4[], $2::int8[], $3::text[], $4::int2[], $5::int2[], $6::text[], $7::int2[])
    AS s (template_id, serial, operation, from_status, to_status, user_ref, gift_generation)
