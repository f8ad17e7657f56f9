-- Records where the history before an epoch ended: the greater of the watermark and Redis' last id.
-- No row: a higher epoch was taken meanwhile. $1 cell, $2 epoch, $3 $4 Redis' last id
INSERT INTO cell_openings (cell, epoch, final_epoch, final_seq)
SELECT cell, epoch,
    CASE WHEN (watermark_epoch, watermark_seq) >= ($3::int4, $4::int8) THEN watermark_epoch ELSE $3::int4 END,
    CASE WHEN (watermark_epoch, watermark_seq) >= ($3::int4, $4::int8) THEN watermark_seq ELSE $4::int8 END
FROM cells WHERE cell = $1 AND epoch = $2 FOR UPDATE
RETURNING final_epoch, final_seq
