-- Entries on the blacklist.
SELECT count(*) FROM blacklist
