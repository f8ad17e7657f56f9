-- Whether a claim is known to be lost. $1 template, $2 serial, $3 epoch
SELECT EXISTS (SELECT FROM lost_claims WHERE template_id = $1 AND serial = $2 AND epoch = $3)
