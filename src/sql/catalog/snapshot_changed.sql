-- Published templates that a snapshot lacks or has in another revision. $1 ids and $2 revisions that it has.
SELECT t.id, t.status, t.revision, t.definition, t.stock_generation, t.freed_at IS NOT NULL AS freed
FROM coupon_templates t
LEFT JOIN unnest($1::integer[], $2::bigint[]) AS known (id, revision) ON known.id = t.id
WHERE t.status NOT IN ('draft', 'pending_approval', 'approved') AND known.revision IS DISTINCT FROM t.revision
