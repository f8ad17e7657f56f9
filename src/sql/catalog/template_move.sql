-- Takes a template to its next state. $1 id, $2 revision, $3 state it is in, $4 next state, $5 who, $6 reason of a
-- rejection.
UPDATE coupon_templates
SET status = $4,
    approver_key_id = CASE $4 WHEN 'approved' THEN $5 WHEN 'draft' THEN NULL ELSE approver_key_id END,
    reject_reason = CASE $4 WHEN 'draft' THEN $6 WHEN 'pending_approval' THEN NULL ELSE reject_reason END,
    published_at = CASE $4 WHEN 'published' THEN coalesce(published_at, now()) ELSE published_at END,
    revision = revision + 1, updated_at = now()
WHERE id = $1 AND revision = $2 AND status = $3 AND freed_at IS NULL
