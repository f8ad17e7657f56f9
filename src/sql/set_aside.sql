-- Sets a grant, or an entry that cannot be read, aside with its reason.
-- $1 cell, $2 $3 entry, $4 template, $5 serial, $6 epoch, $7 user, $8 claim key, $9 IP, $10 device, $11 acquired in
-- ms, $12 payload, $13 sqlstate, $14 reason
INSERT INTO set_aside (cell, entry_epoch, entry_seq, template_id, serial, epoch, user_ref, claim_key_hash, ip_hash,
    device_hash, acquired_at, payload, sqlstate, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, to_timestamp($11::float8 / 1000), $12, $13, $14)
