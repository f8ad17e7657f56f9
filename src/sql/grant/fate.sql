-- What is known of a grant: its serial's row, whether it was set aside, whether its history is stored to the end.
-- $1 cell, $2 template, $3 serial, $4 epoch
SELECT u.epoch, u.user_ref, u.first_user_ref, u.status, u.gift_generation,
    (extract(epoch FROM u.acquired_at) * 1000)::int8, (extract(epoch FROM u.valid_from) * 1000)::int8,
    (extract(epoch FROM u.expires_at) * 1000)::int8,
    EXISTS (SELECT FROM set_aside s WHERE s.template_id = $2 AND s.serial = $3 AND s.epoch = $4
        AND s.reason NOT IN ('diverged', 'wiped'))
    -- An entry that could not be read may have held it, once nothing of the epoch is on the queue any more.
    OR EXISTS (SELECT FROM set_aside s WHERE s.cell = $1 AND s.entry_epoch = $4 AND s.template_id IS NULL)
        AND EXISTS (SELECT FROM cell_openings o WHERE o.cell = $1 AND o.epoch > $4
            AND (c.watermark_epoch, c.watermark_seq) >= (o.final_epoch, o.final_seq)),
    EXISTS (SELECT FROM cell_openings o WHERE o.cell = $1 AND o.epoch > $4
        AND (c.watermark_epoch, c.watermark_seq) >= (o.final_epoch, o.final_seq)),
    u.amount,
    EXISTS (SELECT FROM lost_claims l WHERE l.template_id = $2 AND l.serial = $3 AND l.epoch = $4)
FROM cells c LEFT JOIN user_coupons u ON u.template_id = $2 AND u.serial = $3
WHERE c.cell = $1
