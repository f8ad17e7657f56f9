-- The cell's position, and where histories ended that somebody's entry may lie beyond.
-- $1 cell, $2 the lowest epoch of an entry that is waited for
SELECT c.epoch, c.watermark_epoch, c.watermark_seq, c.set_aside_rows, o.epoch, o.final_epoch, o.final_seq
FROM cells c LEFT JOIN cell_openings o ON o.cell = c.cell AND o.epoch > $2
WHERE c.cell = $1
