-- Moves a cell's watermark, if the epoch is still ours and nobody else moved it. No row: a zombie wrote this.
-- $1 cell, $2 epoch, $3 $4 the watermark expected, $5 $6 the new one
UPDATE cells SET watermark_epoch = $5, watermark_seq = $6, flushed_at = now()
WHERE cell = $1 AND epoch = $2 AND watermark_epoch = $3 AND watermark_seq = $4
