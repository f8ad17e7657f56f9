-- Templates, their stock, and the counters by which gateways notice a change.
CREATE TABLE coupon_templates (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer text NOT NULL CONSTRAINT coupon_templates_issuer CHECK (issuer IN ('platform', 'merchant', 'streamer')),
    issuer_id text NOT NULL,
    name text NOT NULL,
    status text NOT NULL CONSTRAINT coupon_templates_status CHECK
        (status IN ('draft', 'pending_approval', 'approved', 'published', 'paused', 'stopped', 'finished')),
    -- Rises with every change. Redis holds the revision it was told last (see redis_revision).
    revision bigint NOT NULL DEFAULT 1,
    -- The revision that Redis is known to hold; below `revision`, a worker repeats until equal.
    redis_revision bigint NOT NULL DEFAULT 0,
    -- The whole definition, validated, in the form of the HTTP contract.
    definition jsonb NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    -- Rises with every stock addition: a latch of an older generation is void.
    stock_generation integer NOT NULL DEFAULT 0,
    author_key_id integer NOT NULL REFERENCES api_keys (id),
    -- Every key that wrote any of it, the author's first: none of them may approve.
    editor_key_ids integer[] NOT NULL,
    approver_key_id integer REFERENCES api_keys (id),
    reject_reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    -- Set before the Redis keys are freed, so that no later end or restock slips in between; they
    -- are freed once redis_revision = revision. Final: only a tombstone stays in Redis.
    freed_at timestamptz,
    CONSTRAINT coupon_templates_window CHECK (starts_at < ends_at),
    CONSTRAINT coupon_templates_four_eyes CHECK (approver_key_id IS NULL OR
        (approver_key_id <> author_key_id AND approver_key_id <> ALL (editor_key_ids))),
    CONSTRAINT coupon_templates_name UNIQUE (issuer, issuer_id, name)
);
CREATE INDEX coupon_templates_out_of_step ON coupon_templates (id)
    WHERE redis_revision < revision AND status NOT IN ('draft', 'pending_approval', 'approved');
-- What workers look at every second: the ever published that are not freed yet.
CREATE INDEX coupon_templates_live ON coupon_templates (ends_at, id)
    WHERE freed_at IS NULL AND status NOT IN ('draft', 'pending_approval', 'approved');

-- Who owns which serials. Stock is added as a range; PostgreSQL owns it, a cell holds it.
CREATE TABLE stock_ranges (
    template_id integer NOT NULL REFERENCES coupon_templates (id),
    first_serial bigint NOT NULL,
    last_serial bigint NOT NULL,
    cell smallint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (template_id, first_serial),
    CONSTRAINT stock_ranges_bounds CHECK (1 <= first_serial AND first_serial <= last_serial AND last_serial < 1099511627776)
);

-- One row: gateways compare these numbers five times a second and read again what has risen.
CREATE TABLE catalog_versions (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT catalog_versions_one_row CHECK (only_row),
    templates bigint NOT NULL DEFAULT 1,
    blacklist bigint NOT NULL DEFAULT 1,
    api_keys bigint NOT NULL DEFAULT 1
);
INSERT INTO catalog_versions DEFAULT VALUES;
