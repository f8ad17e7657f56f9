-- Lets one lock of a user go on at a time, so that what is counted of them stays true. $1 user
SELECT pg_advisory_xact_lock(hashtextextended($1, 7))
