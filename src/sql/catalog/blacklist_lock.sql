-- Reads an entry of the blacklist by what it names, and keeps others from changing it. $1 kind, $2 value.
SELECT id, kind, value, reason, author_key_id, expires_at, created_at
FROM blacklist
WHERE kind = $1 AND value = $2
FOR UPDATE
