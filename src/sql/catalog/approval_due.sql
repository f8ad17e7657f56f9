-- Takes requests that are to be sent now, each with its next attempt set already: who dies over it loses nothing. $1
-- seconds that an attempt may take, $2 seconds after the first failure, which double up to $3; $4 most requests
UPDATE approval_requests
SET attempts = attempts + 1,
    next_attempt_at = now() + make_interval(secs => $1::float8 + least($2::float8 * 2 ^ least(attempts, 30), $3::float8))
WHERE id IN (
    SELECT id FROM approval_requests WHERE next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT $4 FOR UPDATE SKIP LOCKED)
RETURNING id, body
