-- The coupons of a redemption. $1 order, $2 user; lists of the same length in the order of computing: $3 templates,
-- $4 serials, $5 epochs, $6 gift generations, $7 kinds, $8 issuers, $9 their ids, $10 discounts, $11 gift values,
-- $12 shares, $13 valid from and $14 expires in ms
INSERT INTO redemption_coupons (order_id, template_id, serial, epoch, gift_generation, position, state, user_ref, kind,
    issuer, issuer_id, discount, gift_value, shares, valid_from, expires_at)
SELECT $1, c.template_id, c.serial, c.epoch, c.gift_generation, c.position, 'locked', $2, c.kind, c.issuer, c.issuer_id,
    c.discount, c.gift_value, c.shares, to_timestamp(c.valid_from / 1000.0), to_timestamp(c.expires / 1000.0)
FROM unnest($3::int4[], $4::int8[], $5::int4[], $6::int2[], $7::text[], $8::text[], $9::text[], $10::numeric[],
        $11::numeric[], $12::jsonb[], $13::int8[], $14::int8[]) WITH ORDINALITY
    AS c (template_id, serial, epoch, gift_generation, kind, issuer, issuer_id, discount, gift_value, shares, valid_from,
        expires, position)
