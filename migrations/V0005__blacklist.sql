-- Who may not claim. In force everywhere within a second; expired rows stop counting by time.
CREATE TABLE blacklist (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CONSTRAINT blacklist_kind CHECK (kind IN ('user', 'ip', 'device')),
    -- A UserRef; an address or network in CIDR form; the 64-bit keyed hash of a device id, in hex.
    value text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    author_key_id integer NOT NULL REFERENCES api_keys (id),
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT blacklist_once UNIQUE (kind, value)
);
CREATE INDEX blacklist_expiry ON blacklist (expires_at) WHERE expires_at IS NOT NULL;
