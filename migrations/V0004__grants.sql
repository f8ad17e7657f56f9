-- Coupons in users' hands, and what keeps each of them from existing twice.

-- The hot table. Overselling is refused by its primary key.
-- Operational story: written by COPY alone on the claim path, so one index beside the key.
CREATE TABLE user_coupons (
    template_id integer NOT NULL,
    serial bigint NOT NULL,
    -- The epoch of the grant: with the serial it tells a coupon from one that a failover lost.
    epoch integer NOT NULL,
    -- The present holder, and the first one where it was given away (null: the same).
    user_ref text COLLATE "C" NOT NULL,
    first_user_ref text COLLATE "C",
    -- 64-bit keyed hash of the claim key, as Redis' receipt has it.
    claim_key_hash bigint NOT NULL,
    -- 64-bit keyed hashes; null without the address or device, or for a template without quotas.
    ip_hash bigint,
    device_hash bigint,
    status smallint NOT NULL DEFAULT 1,
    gift_generation smallint NOT NULL DEFAULT 0,
    acquired_at timestamptz NOT NULL,
    valid_from timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT user_coupons_pkey PRIMARY KEY (template_id, serial),
    CONSTRAINT user_coupons_serial CHECK (serial BETWEEN 1 AND 1099511627775),
    CONSTRAINT user_coupons_status CHECK (status BETWEEN 1 AND 6)
);
CREATE INDEX user_coupons_wallet ON user_coupons (user_ref, acquired_at, template_id, serial);

-- Rows that PostgreSQL refused, each with its reason; their neighbours passed.
CREATE TABLE set_aside (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cell smallint NOT NULL,
    entry_epoch integer NOT NULL,
    entry_seq bigint NOT NULL,
    -- Null where the entry itself could not be read.
    template_id integer,
    serial bigint,
    epoch integer,
    user_ref text COLLATE "C",
    claim_key_hash bigint,
    ip_hash bigint,
    device_hash bigint,
    acquired_at timestamptz,
    -- The entry's bytes where it could not be read.
    payload bytea,
    sqlstate text,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX set_aside_entry ON set_aside (cell, entry_epoch, entry_seq);
CREATE INDEX set_aside_serial ON set_aside (template_id, serial);

-- One row a cell: its epoch, and how far its queue is stored.
CREATE TABLE cells (
    cell smallint PRIMARY KEY,
    -- Raised before each opening; whoever holds a lower one is a zombie. 0: never opened.
    epoch integer NOT NULL DEFAULT 0 CONSTRAINT cells_epoch CHECK (epoch BETWEEN 0 AND 65535),
    watermark_epoch integer NOT NULL DEFAULT 0,
    watermark_seq bigint NOT NULL DEFAULT 0,
    set_aside_rows bigint NOT NULL DEFAULT 0,
    opened_at timestamptz,
    flushed_at timestamptz
);
INSERT INTO cells (cell) VALUES (0);

-- Where the history before each epoch ended: an entry of an older epoch beyond it is from a
-- Redis that went on alone, and no row of it may be stored.
CREATE TABLE cell_openings (
    cell smallint NOT NULL REFERENCES cells (cell),
    epoch integer NOT NULL,
    final_epoch integer NOT NULL,
    final_seq bigint NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cell, epoch)
);
