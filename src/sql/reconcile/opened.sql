-- When a cell was opened last, in ms. $1 cell
SELECT coalesce((extract(epoch FROM opened_at) * 1000)::int8, 0) FROM cells WHERE cell = $1
