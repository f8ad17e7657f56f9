-- Rows of a template by their serials: what Redis may have lost. COPY takes no parameters, so the whole numbers in
-- braces are put in before it is sent.
COPY (
    SELECT serial, epoch, coalesce(first_user_ref, user_ref), claim_key_hash, ip_hash, device_hash, acquired_at
    FROM user_coupons WHERE template_id = {template} AND serial BETWEEN {first} AND {last}
) TO STDOUT (FORMAT binary)
