-- Rows of a template by their serials: what Redis may have lost. COPY takes no parameters, so what is in braces
-- is put in before it is sent: whole numbers, and the columns that only quotas ask for.
COPY (
    SELECT serial, epoch, coalesce(first_user_ref, user_ref), claim_key_hash, acquired_at{places}
    FROM user_coupons WHERE template_id = {template} AND serial BETWEEN {first} AND {last}
) TO STDOUT (FORMAT binary)
