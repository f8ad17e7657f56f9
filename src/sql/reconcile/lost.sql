-- Lost claims that nobody has dealt with, in order. $1 $2 $3 template, serial and epoch of the last one seen, $4 rows
SELECT template_id, serial, epoch, entry_epoch, entry_seq, user_ref, (extract(epoch FROM acquired_at) * 1000)::int8, source
FROM lost_claims
WHERE settled_at IS NULL AND (template_id, serial, epoch) > ($1::int4, $2::int8, $3::int4)
ORDER BY template_id, serial, epoch LIMIT $4
