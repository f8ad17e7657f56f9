-- What happened to one in ten of the used coupons, and to serial 1 of template 1, which 600 orders locked and let go.
-- $1 serials that are told of: multiples of it
WITH used AS (
    SELECT template_id, serial, user_ref, acquired_at + interval '1 day' AS at, 'o-' || template_id || '-' || serial AS order_id
    FROM user_coupons WHERE status = 4 AND serial % $1::int8 = 0 AND (template_id, serial) <> (1, 1)
), orders AS (
    SELECT template_id, serial, user_ref, at, order_id, 'used' AS state FROM used
    UNION ALL
    SELECT 1, 1, 'u-often', now() - n * interval '1 hour', 'o-often-' || n, 'released' FROM generate_series(1, 600) AS n
), redeemed AS (
    INSERT INTO redemptions (order_id, status, checkout_id, user_ref, request_sha256, currency, placed_order,
        goods_total, shipping_total, discount_total, payable, locked_at, lock_expires_at, used_at, released_at, created_at)
    SELECT order_id, CASE state WHEN 'used' THEN 'used' ELSE 'cancelled' END, 'c-' || order_id, user_ref,
        decode(md5(order_id), 'hex'), 'CNY', jsonb_build_object('lines', jsonb_build_array(jsonb_build_object('line_id', '1',
        'item_id', 'd-101', 'merchant_id', 'm-1', 'unit_price', '40.00', 'quantity', 1))), 40, 0, 5, 35,
        at, at + interval '15 minutes', CASE state WHEN 'used' THEN at END, CASE state WHEN 'released' THEN at END, at
    FROM orders
), coupons AS (
    INSERT INTO redemption_coupons (order_id, template_id, serial, epoch, gift_generation, position, state, user_ref, kind,
        issuer, issuer_id, discount, shares, valid_from, expires_at)
    SELECT order_id, template_id, serial, 1, 0, 1, state, user_ref, 'cash_voucher', 'platform', '', 5,
        '{"lines":[{"line_id":"1","share":"5.00"}]}', at, at FROM orders
)
INSERT INTO coupon_operations (template_id, serial, operation, from_status, to_status, user_ref, gift_generation,
    cause_kind, cause_id, actor, at)
SELECT template_id, serial, step.operation, step.before, step.after, user_ref, 0, 'order', order_id, 'key:1', at
FROM orders JOIN (VALUES ('used', 'lock', 1, 2), ('used', 'confirm', 2, 4), ('released', 'lock', 1, 2),
    ('released', 'cancel', 2, 1)) AS step (state, operation, before, after) USING (state)
ORDER BY at, order_id, step.after
