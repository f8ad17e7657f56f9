-- The numbers of a redemption are told from its columns and its coupons' shares: no second copy of them.
-- Operational story: drops a column that nothing reads; no row is rewritten.
ALTER TABLE redemptions DROP CONSTRAINT redemptions_locked_whole;
ALTER TABLE redemptions DROP COLUMN priced;
ALTER TABLE redemptions ADD CONSTRAINT redemptions_locked_whole CHECK (locked_at IS NULL OR
    (checkout_id IS NOT NULL AND user_ref IS NOT NULL AND request_sha256 IS NOT NULL AND currency IS NOT NULL
    AND placed_order IS NOT NULL AND goods_total IS NOT NULL AND shipping_total IS NOT NULL
    AND discount_total IS NOT NULL AND payable IS NOT NULL AND lock_expires_at IS NOT NULL));
COMMENT ON COLUMN redemptions.placed_order IS
    'The order without its user, and the facts about them that it was priced by: {"order":{...},"facts":{...}}';
