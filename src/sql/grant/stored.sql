-- What is stored under a serial: tells a repeat from a collision. $1 template, $2 serial
SELECT epoch, claim_key_hash, coalesce(first_user_ref, user_ref) FROM user_coupons WHERE template_id = $1 AND serial = $2
