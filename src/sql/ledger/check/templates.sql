-- Templates that the ledger knows of, deleted ones too: of the catalog, of coupons, operations and counters.
WITH RECURSIVE coupons (id) AS (
    SELECT min(template_id) FROM user_coupons
    UNION ALL SELECT (SELECT min(u.template_id) FROM user_coupons u WHERE u.template_id > c.id) FROM coupons c
    WHERE c.id IS NOT NULL
), operations (id) AS (
    SELECT min(template_id) FROM coupon_operations
    UNION ALL SELECT (SELECT min(o.template_id) FROM coupon_operations o WHERE o.template_id > p.id) FROM operations p
    WHERE p.id IS NOT NULL
)
SELECT id FROM coupon_templates
UNION SELECT id FROM coupons WHERE id IS NOT NULL
UNION SELECT id FROM operations WHERE id IS NOT NULL
UNION SELECT template_id FROM coupon_counters
ORDER BY id
