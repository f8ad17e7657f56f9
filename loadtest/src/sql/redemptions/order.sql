-- What one lock and one confirm wrote, as texts: the constants of the bare statements. $1 order
SELECT encode(r.request_sha256, 'hex') AS sha256, r.currency, r.placed_order::text, r.goods_total::text,
    r.shipping_total::text, r.discount_total::text, r.payable::text,
    extract(epoch FROM r.lock_expires_at - r.locked_at)::int4::text AS lock_seconds,
    c.epoch::text, c.gift_generation::text AS gift, c.kind, c.issuer, c.issuer_id, c.discount::text,
    c.gift_value::text, c.shares::text, (extract(epoch FROM c.valid_from) * 1000)::int8::text AS valid_from,
    (extract(epoch FROM c.expires_at) * 1000)::int8::text AS expires,
    l.operation AS lock, l.from_status::text AS free, l.to_status::text AS locked, l.cause_kind AS cause, l.actor,
    u.operation AS confirm, u.to_status::text AS used,
    e.kind AS event, e.data::text AS event_data,
    la.ip, la.request_id, la.action AS lock_action, la.after::text AS lock_after,
    ca.action AS confirm_action, ca.before::text AS confirm_before, ca.after::text AS confirm_after,
    s.beneficiaries, s.beneficiary_ids, s.subjects, s.subject_ids, s.amounts
FROM redemptions r
JOIN redemption_coupons c USING (order_id)
JOIN coupon_operations l ON l.cause_id = r.order_id AND l.operation = 'lock'
JOIN coupon_operations u ON u.cause_id = r.order_id AND u.operation = 'confirm'
JOIN events e ON e.template_id = c.template_id AND e.serial = c.serial
JOIN audit_log la ON la.subject = 'redemption:' || r.order_id AND la.action = 'redemption.lock'
JOIN audit_log ca ON ca.subject = 'redemption:' || r.order_id AND ca.action = 'redemption.confirm'
CROSS JOIN LATERAL (SELECT array_agg(party ORDER BY id) AS beneficiaries,
    array_agg(party_id::text ORDER BY id) AS beneficiary_ids, array_agg(subject ORDER BY id) AS subjects,
    array_agg(subject_id::text ORDER BY id) AS subject_ids, array_agg(amount::text ORDER BY id) AS amounts
    FROM settlement_entries WHERE order_id = r.order_id AND side = 'beneficiary') AS s
WHERE r.order_id = $1
