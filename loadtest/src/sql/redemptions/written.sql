-- What locks and confirms have written so far, table by table
SELECT (SELECT count(*) FROM redemptions) AS redemptions,
    (SELECT count(*) FROM redemptions WHERE status = 'used') AS redemptions_used,
    (SELECT count(*) FROM redemption_coupons WHERE state = 'used') AS redemption_coupons_used,
    (SELECT count(*) FROM user_coupons WHERE status = 4) AS user_coupons_used,
    (SELECT count(*) FROM user_coupons WHERE status NOT IN (1, 4)) AS user_coupons_of_other_status,
    (SELECT count(*) FROM coupon_operations) AS coupon_operations,
    (SELECT count(*) FROM settlement_entries) AS settlement_entries,
    (SELECT count(*) FROM events) AS events,
    (SELECT count(*) FROM audit_log WHERE action LIKE 'redemption.%') AS audit_log,
    (SELECT coalesce(sum(used), 0)::int8 FROM coupon_counters) AS coupons_counted_as_used,
    (SELECT coalesce(sum(locked), 0)::int8 FROM coupon_counters) AS coupons_counted_as_locked
