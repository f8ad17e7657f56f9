-- Keys of the internal listener. Only the SHA-256 of a key is kept.
CREATE TABLE api_keys (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL CONSTRAINT api_keys_role
        CHECK (role IN ('admin', 'operator', 'approver', 'service', 'support', 'auditor')),
    owner_type text NOT NULL CONSTRAINT api_keys_owner_type CHECK (owner_type IN ('platform', 'merchant', 'streamer')),
    owner_id text NOT NULL DEFAULT '',
    key_sha256 bytea NOT NULL CONSTRAINT api_keys_key UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by integer REFERENCES api_keys (id),
    revoked_at timestamptz,
    CONSTRAINT api_keys_owner CHECK ((owner_type = 'platform') = (owner_id = ''))
);

-- Answers of writes under their Idempotency-Key, for 24 hours: same key and body, same answer.
-- Operational story: the worker deletes what is older, in bounded steps.
CREATE TABLE idempotency_keys (
    api_key_id integer NOT NULL REFERENCES api_keys (id),
    key text NOT NULL,
    request_sha256 bytea NOT NULL,
    -- The answer, written by the transaction that made the change: status, body, and the revision
    -- for its ETag. Secrets and user ids are never in it. Null only within that transaction.
    status smallint,
    answer text,
    revision bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (api_key_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
