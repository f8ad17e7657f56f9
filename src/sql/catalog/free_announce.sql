-- Announces that templates are freed: from now on a later end or a restock is refused. $1 ids, $2 seconds since the
-- end.
UPDATE coupon_templates
SET freed_at = now(), revision = revision + 1, updated_at = now()
WHERE id = ANY ($1) AND freed_at IS NULL AND ends_at < now() - make_interval(secs => $2)
    AND status NOT IN ('draft', 'pending_approval', 'approved')
RETURNING id, jsonb_build_object('freed', false) AS before, jsonb_build_object('freed', true) AS after
