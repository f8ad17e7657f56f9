-- Keeps acknowledged grants that no store has, unless they are rows, set aside or kept already.
-- $1 cell, $2 template, $3 epoch, $4 $5 entry; of each grant: $6 serials, $7 users, $8 claim keys, $9 acquired in ms;
-- $10 what knew of them
INSERT INTO lost_claims (template_id, serial, epoch, cell, entry_epoch, entry_seq, user_ref, claim_key_hash, acquired_at,
    source)
SELECT $2, g.serial, $3, $1, $4, $5, g.user_ref, g.claim_key_hash, to_timestamp(g.acquired / 1000.0), $10
FROM unnest($6::int8[], $7::text[], $8::int8[], $9::int8[]) AS g (serial, user_ref, claim_key_hash, acquired)
WHERE NOT EXISTS (SELECT FROM user_coupons u WHERE u.template_id = $2 AND u.serial = g.serial AND u.epoch = $3)
    AND NOT EXISTS (SELECT FROM set_aside s WHERE s.template_id = $2 AND s.serial = g.serial AND s.epoch = $3
        AND s.reason NOT IN ('diverged', 'wiped'))
ON CONFLICT (template_id, serial, epoch) DO NOTHING
