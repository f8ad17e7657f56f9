-- Writes events for others to be told. Lists of the same length: $1 kinds, $2 templates, $3 serials, $4 users, $5 data
INSERT INTO events (kind, template_id, serial, user_ref, data)
SELECT e.kind, e.template_id, e.serial, e.user_ref, e.data
FROM unnest($1::text[], $2::int4[], $3::int8[], $4::text[], $5::jsonb[]) AS e (kind, template_id, serial, user_ref, data)
