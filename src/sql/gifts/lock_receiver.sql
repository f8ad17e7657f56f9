-- Waits until nobody else counts a user's coupons of a template, to the end of the transaction. $1 user, $2 template
SELECT pg_advisory_xact_lock(hashtextextended('floodgate gifts of ' || $2::int4::text || ' to ' || $1, 0))
