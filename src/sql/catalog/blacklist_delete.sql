-- Takes an entry off the blacklist. $1 id.
DELETE FROM blacklist WHERE id = $1
