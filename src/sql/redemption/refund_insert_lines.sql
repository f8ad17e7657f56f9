-- Lines of a refund. $1 refund; lists of the same length: $2 lines, $3 quantities, $4 amounts reversed
INSERT INTO refund_lines (refund_id, line_id, quantity, reversed)
SELECT $1, l.line_id, l.quantity, l.reversed
FROM unnest($2::text[], $3::int4[], $4::numeric[]) AS l (line_id, quantity, reversed)
