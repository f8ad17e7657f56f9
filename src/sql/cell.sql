-- A cell's row. $1 cell
SELECT epoch, watermark_epoch, watermark_seq, opened_at IS NOT NULL FROM cells WHERE cell = $1
