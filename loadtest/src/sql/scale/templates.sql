-- Templates that have ended, each of an id from 1. $1 definition, $2 how many
WITH author AS (
    INSERT INTO api_keys (name, role, owner_type, key_sha256) VALUES ('scale', 'admin', 'platform', decode(md5('scale'), 'hex'))
    RETURNING id
)
INSERT INTO coupon_templates (issuer, issuer_id, name, status, definition, starts_at, ends_at, author_key_id,
    editor_key_ids, redis_revision, freed_at)
SELECT 'platform', '', 'scale ' || n, 'stopped', jsonb_set($1::jsonb, '{name}', to_jsonb('scale ' || n)),
    ($1::jsonb #>> '{claim_window,starts_at}')::timestamptz, ($1::jsonb #>> '{claim_window,ends_at}')::timestamptz,
    author.id, ARRAY[author.id], 1, now()
FROM author, generate_series(1, $2::int4) AS n
