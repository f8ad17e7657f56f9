-- Where the history before an epoch ended. $1 cell, $2 epoch
SELECT final_epoch, final_seq FROM cell_openings WHERE cell = $1 AND epoch = $2
