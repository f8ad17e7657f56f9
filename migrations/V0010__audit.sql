-- Who changed what, when, from where, before and after; and the chain that shows whether a record was touched since.
-- Operational story: new tables alone; the binary before this one writes nothing to them. Neither log nor chain is
-- ever changed or deleted from: docs/OPERATIONS.md says what they take.

-- One row a change, inserted by the transaction that makes it. Nothing of the chain is in it, so that changes do not
-- wait for each other.
CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_log_pkey PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    -- `key:7`, `user:<UserRef>`, `worker:expiry`, `cli`, `settings`, `approval`.
    actor text COLLATE "C" NOT NULL,
    -- The address that the request came from, and the request's name. Null where there was no request.
    ip text,
    request_id text,
    -- As `template.publish`, and what it was done to, as `template:7`.
    action text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    -- The subject before and after, to the letter as it was written (json, not jsonb). Null: it did not exist. Users
    -- are UserRefs; codes, tokens and keys are never in it.
    before json,
    after json
);
CREATE INDEX audit_log_by_time ON audit_log (at, id);
CREATE INDEX audit_log_by_subject ON audit_log (subject, at, id);
CREATE INDEX audit_log_by_actor ON audit_log (actor, at, id);
CREATE INDEX audit_log_by_action ON audit_log (action, at, id);

-- The order in which records were sealed, each bound to all before it.
CREATE TABLE audit_chain (
    position bigint CONSTRAINT audit_chain_pkey PRIMARY KEY,
    record_id bigint NOT NULL CONSTRAINT audit_chain_record UNIQUE,
    -- SHA-256 of the record's content.
    record_hash bytea NOT NULL,
    -- The hash of the position before, and this one's: HMAC-SHA256 over previous_hash, record_id and record_hash,
    -- under a key that the database does not have.
    previous_hash bytea NOT NULL,
    chain_hash bytea NOT NULL
);

-- One row: where the chain ends. Whoever seals holds its lock.
CREATE TABLE audit_head (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT audit_head_one_row CHECK (only_row),
    position bigint NOT NULL DEFAULT 0,
    chain_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    -- Records up to this id are sealed, but for those in audit_gaps.
    looked_to bigint NOT NULL DEFAULT 0
);
INSERT INTO audit_head DEFAULT VALUES;

-- Ids at or below looked_to that were not there: their transactions had not committed, or never will.
CREATE TABLE audit_gaps (
    first_id bigint CONSTRAINT audit_gaps_pkey PRIMARY KEY,
    last_id bigint NOT NULL,
    -- Once every transaction below this one has ended, what is not there will not come.
    horizon xid8 NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now()
);

-- Against slips of the hand: whoever may drop a trigger is found by the chain.
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_chain_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
