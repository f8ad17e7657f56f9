-- Templates whose cell is to be given back: not freed, each with its stock as one range. $1 coupons of a template
WITH live AS (
    UPDATE coupon_templates SET freed_at = NULL, redis_revision = revision RETURNING id
)
INSERT INTO stock_ranges (template_id, first_serial, last_serial, cell)
SELECT id, 1, $1::int8, 0 FROM live
ON CONFLICT DO NOTHING
