-- Takes coupons off the list, unless they were extended once more. Lists of the same length: $1 templates, $2 serials
DELETE FROM coupon_extensions e USING unnest($1::int4[], $2::int8[]) AS k (template_id, serial)
WHERE e.template_id = k.template_id AND e.serial = k.serial AND e.expires_at <= now()
