-- Acknowledged grants that a failover lost, each with who was told of it.
-- Operational story: a new table. The binary before this one neither writes nor reads it.

CREATE TABLE lost_claims (
    template_id integer NOT NULL,
    serial bigint NOT NULL,
    -- The epoch that is part of the lost code: the serial may be granted again under a later one.
    epoch integer NOT NULL,
    cell smallint NOT NULL,
    -- The entry that is on no queue any more.
    entry_epoch integer NOT NULL,
    entry_seq bigint NOT NULL,
    user_ref text COLLATE "C" NOT NULL,
    claim_key_hash bigint NOT NULL,
    acquired_at timestamptz NOT NULL,
    -- What knew of it: a gateway's ring, or a client's journal.
    source text NOT NULL CONSTRAINT lost_claims_source CHECK (source IN ('ring', 'journal')),
    found_at timestamptz NOT NULL DEFAULT now(),
    -- When a person had dealt with it; null: it is listed and counted as a difference.
    settled_at timestamptz,
    CONSTRAINT lost_claims_pkey PRIMARY KEY (template_id, serial, epoch)
);
CREATE INDEX lost_claims_open ON lost_claims (found_at) WHERE settled_at IS NULL;
