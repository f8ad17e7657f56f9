-- Which issuance a coupon came with, and revocations of one.
-- Operational story: the column is null for what users claim, and no row is rewritten. The index holds only rows of an
-- issuance, so that a flush pays for it with one comparison a row; making it reads user_coupons once (seconds for ten
-- million rows) while flushers wait and the grant queue grows.

-- One bulk distribution, by its number; null: claimed.
ALTER TABLE user_coupons ADD COLUMN issuance_id bigint;
CREATE INDEX user_coupons_of_issuance ON user_coupons (issuance_id, template_id, serial) WHERE issuance_id IS NOT NULL;

ALTER TABLE revocations ADD COLUMN issuance_id bigint,
    DROP CONSTRAINT revocations_scope,
    ADD CONSTRAINT revocations_scope CHECK (scope IN ('coupon', 'user', 'issuance', 'template')),
    DROP CONSTRAINT revocations_whole,
    ADD CONSTRAINT revocations_whole CHECK ((scope = 'issuance') = (issuance_id IS NOT NULL) AND CASE scope
        WHEN 'coupon' THEN template_id IS NOT NULL AND serial IS NOT NULL AND epoch IS NOT NULL
            AND gift_generation IS NOT NULL AND user_ref IS NULL
        WHEN 'user' THEN user_ref IS NOT NULL AND serial IS NULL
        WHEN 'issuance' THEN template_id IS NULL AND user_ref IS NULL AND serial IS NULL
        ELSE template_id IS NOT NULL AND user_ref IS NULL AND serial IS NULL END);
