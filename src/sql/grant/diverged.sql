-- An opening that an entry lies beyond: the history that holds this entry is not the one that was stored.
-- $1 cell, $2 $3 entry
SELECT epoch, final_epoch, final_seq FROM cell_openings
WHERE cell = $1 AND epoch > $2::int4 AND (final_epoch, final_seq) < ($2::int4, $3::int8) ORDER BY epoch LIMIT 1
