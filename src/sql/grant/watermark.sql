-- How far a cell's queue is stored. $1 cell.
SELECT watermark_epoch, watermark_seq FROM cells WHERE cell = $1
