-- How often each statement was called, by the first line of its text
SELECT split_part(query, E'\n', 1) AS first_line, sum(calls)::int8 AS calls FROM pg_stat_statements GROUP BY first_line
