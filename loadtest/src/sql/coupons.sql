-- What PostgreSQL holds of templates. $1 their ids.
SELECT template_id, serial, epoch, coalesce(first_user_ref, user_ref), claim_key_hash, ip_hash, device_hash,
       acquired_at, valid_from, expires_at
FROM user_coupons
WHERE template_id = ANY ($1)
ORDER BY template_id, serial
