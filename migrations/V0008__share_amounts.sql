-- Coupons that are each worth their own amount: the shares of red packets.
-- Operational story: a column without a default, so no row is rewritten; no row has an amount yet, so none is looked
-- through for the check, which holds for every row from now on. COPY on the claim path goes on without the column.
ALTER TABLE user_coupons
    -- In the currency of the template. Null: the coupon is worth what its template says.
    ADD COLUMN amount numeric(20, 4),
    ADD CONSTRAINT user_coupons_amount CHECK (amount > 0) NOT VALID;
