-- Coupons that come free about the time at which they expire are looked at again by the sweeper.
-- Operational story: a trigger; statements that give no coupon free, and COPY, do not pay for it.

-- The sweeper passes over what is locked or used. What a transaction that began before the coupon's end gives
-- free after it would stay unused behind the cursor. A minute is more than a transaction may take.
CREATE TRIGGER user_coupons_freed AFTER UPDATE OF status ON user_coupons
    FOR EACH ROW WHEN (NEW.status = 1 AND OLD.status <> 1 AND NEW.expires_at < now() + interval '1 minute')
    EXECUTE FUNCTION note_extension();
