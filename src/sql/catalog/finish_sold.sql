-- Marks templates finished that were seen sold out, or published again that were seen with stock; gives what it did.
-- $1 ids, $2 the stock generation that each was seen with, $3 status it has, $4 status it gets.
UPDATE coupon_templates t
SET status = $4, revision = t.revision + 1, updated_at = now()
FROM unnest($1::integer[], $2::integer[]) AS seen (id, generation)
WHERE t.id = seen.id AND t.stock_generation = seen.generation AND t.status = $3
    AND now() < t.ends_at AND t.freed_at IS NULL
RETURNING t.id, jsonb_build_object('status', $3::text) AS before, jsonb_build_object('status', t.status) AS after
