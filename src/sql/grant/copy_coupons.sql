-- New coupons, in the columns that the writer fills. The rest has defaults.
COPY user_coupons (template_id, serial, epoch, user_ref, claim_key_hash, ip_hash, device_hash, acquired_at, valid_from, expires_at) FROM STDIN (FORMAT binary)
