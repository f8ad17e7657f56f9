-- Revocations and expiry, carried out in bounded steps, and the counter of issued coupons.
-- Operational story: new tables, a function, and one pass over user_coupons that counts what was issued so
-- far (seconds for ten million rows); meanwhile flushers wait and the grant queue grows. A flusher of the
-- binary before this one does not count: stop all flushers before `floodgate migrate` and start them anew
-- after it. `floodgate ledger check` tells if one went on.

-- A template's time zone as this PostgreSQL can reckon with it. Names that only newer or fuller copies of the
-- zone database have (Debian keeps US/Pacific in a package of its own) count as UTC: a flush must not fail
-- for a name.
CREATE FUNCTION usable_timezone(zone text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM now() AT TIME ZONE zone;
    RETURN coalesce(zone, 'UTC');
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN 'UTC';
END
$$;

-- Nothing is stored between the count and the first flusher that counts by itself.
LOCK TABLE user_coupons IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO coupon_counters AS c (template_id, day, slot, issued)
SELECT u.template_id, (u.acquired_at AT TIME ZONE t.zone)::date AS day, 0, count(*)
FROM user_coupons u
JOIN (SELECT id, usable_timezone(timezone) AS zone FROM coupon_templates OFFSET 0) t ON t.id = u.template_id
GROUP BY u.template_id, day
ON CONFLICT (template_id, day, slot) DO UPDATE SET issued = c.issued + excluded.issued;

-- Coupons taken back by an operator: what, why, and how far it is carried out.
CREATE TABLE revocations (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT revocations_pkey PRIMARY KEY,
    scope text NOT NULL CONSTRAINT revocations_scope CHECK (scope IN ('coupon', 'user', 'template')),
    -- Of a coupon, of a template, or of a user's coupons of one template.
    template_id integer REFERENCES coupon_templates (id),
    serial bigint,
    epoch integer,
    gift_generation smallint,
    user_ref text COLLATE "C",
    -- The owner whose templates alone it may touch; null: all templates.
    issuer text,
    issuer_id text,
    reason text NOT NULL,
    status text NOT NULL CONSTRAINT revocations_status CHECK (status IN ('pending', 'running', 'done')),
    author_key_id integer NOT NULL REFERENCES api_keys (id),
    -- The moment that it is of, by the clock that grants have: later grants are not touched.
    granted_until timestamptz NOT NULL,
    -- It begins when the cell's grants up to this entry are rows.
    cell smallint NOT NULL,
    after_epoch integer NOT NULL,
    after_seq bigint NOT NULL,
    -- The last row that was looked at. Of a user's coupons, by the order of the wallet.
    cursor_acquired timestamptz NOT NULL DEFAULT 'epoch',
    cursor_template integer NOT NULL DEFAULT 0,
    cursor_serial bigint NOT NULL DEFAULT 0,
    -- What became of the coupons in its scope.
    revoked bigint NOT NULL DEFAULT 0,
    left_locked bigint NOT NULL DEFAULT 0,
    left_used bigint NOT NULL DEFAULT 0,
    left_expired bigint NOT NULL DEFAULT 0,
    left_revoked bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT revocations_whole CHECK (CASE scope
        WHEN 'coupon' THEN template_id IS NOT NULL AND serial IS NOT NULL AND epoch IS NOT NULL
            AND gift_generation IS NOT NULL AND user_ref IS NULL
        WHEN 'user' THEN user_ref IS NOT NULL AND serial IS NULL
        ELSE template_id IS NOT NULL AND user_ref IS NULL AND serial IS NULL END)
);
-- What workers look at.
CREATE INDEX revocations_open ON revocations (id) WHERE status <> 'done';

-- How far each template's coupons are swept. Coupons of a template expire in the order of their serials (the
-- same time for all, or as long after each grant), so that what is due stands behind the cursor and is found
-- by the primary key: user_coupons needs no index for it, which every flush would pay for.
CREATE TABLE coupon_sweeps (
    template_id integer CONSTRAINT coupon_sweeps_pkey PRIMARY KEY REFERENCES coupon_templates (id),
    -- All rows up to this serial have expired or are in no state to expire.
    serial bigint NOT NULL DEFAULT 0,
    -- When to look behind it.
    due_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE INDEX coupon_sweeps_due ON coupon_sweeps (due_at);

-- Coupons whose time was extended: a cursor may be past them already.
CREATE TABLE coupon_extensions (
    template_id integer NOT NULL,
    serial bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT coupon_extensions_pkey PRIMARY KEY (template_id, serial)
);
CREATE INDEX coupon_extensions_due ON coupon_extensions (expires_at);

-- By a trigger, so that no statement that extends a coupon can forget it. Statements that do not set
-- expires_at, and COPY, do not pay for it.
CREATE FUNCTION note_extension() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO coupon_extensions (template_id, serial, expires_at)
    VALUES (NEW.template_id, NEW.serial, NEW.expires_at)
    ON CONFLICT (template_id, serial) DO UPDATE SET expires_at = excluded.expires_at;
    RETURN NULL;
END
$$;
CREATE TRIGGER user_coupons_extended AFTER UPDATE OF expires_at ON user_coupons
    FOR EACH ROW WHEN (NEW.expires_at > OLD.expires_at) EXECUTE FUNCTION note_extension();
