-- How far a cell's queue is stored, and the rows set aside that it counted and that there are. $1 cell.
SELECT epoch, watermark_epoch, watermark_seq, set_aside_rows, (SELECT count(*) FROM set_aside WHERE cell = $1)
FROM cells
WHERE cell = $1
