-- Keeps a grant of a history that is given up, unless it is stored or kept already.
-- $1 cell, $2 $3 entry, $4 template, $5 serial, $6 epoch, $7 user, $8 claim key, $9 IP, $10 device, $11 acquired in
-- ms, $12 payload, $13 reason
INSERT INTO set_aside (cell, entry_epoch, entry_seq, template_id, serial, epoch, user_ref, claim_key_hash, ip_hash,
    device_hash, acquired_at, payload, reason)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, to_timestamp($11::float8 / 1000), $12, $13
WHERE NOT EXISTS (SELECT FROM user_coupons u
        WHERE u.template_id = $4 AND u.serial = $5 AND u.epoch = $6 AND u.claim_key_hash = $8)
    AND NOT EXISTS (SELECT FROM set_aside s
        WHERE s.cell = $1 AND s.entry_epoch = $2 AND s.entry_seq = $3
            AND s.template_id IS NOT DISTINCT FROM $4 AND s.serial IS NOT DISTINCT FROM $5)
