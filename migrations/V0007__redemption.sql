-- From wallet to used, and back: what happens to a coupon after its grant, and what it costs whom.
-- Operational story: new tables, and a column that rewrites coupon_templates (thousands of rows:
-- milliseconds). user_coupons keeps its rows and indexes; new pages leave room for updates in place.
-- The binary before this one goes on meanwhile and reads nothing of it.

-- Lock, confirm and cancel change status and nothing that an index holds: with room on the page
-- they are updates in place, which touch no index.
ALTER TABLE user_coupons SET (fillfactor = 85);

-- The day of a counter is the template's own.
ALTER TABLE coupon_templates ADD COLUMN timezone text GENERATED ALWAYS AS (definition ->> 'timezone') STORED;

-- Every step of a coupon after its grant, with its cause. The grant itself is the coupon's row.
CREATE TABLE coupon_operations (
    id bigint GENERATED ALWAYS AS IDENTITY,
    template_id integer NOT NULL,
    serial bigint NOT NULL,
    operation text NOT NULL CONSTRAINT coupon_operations_operation CHECK (operation IN (
        'lock', 'confirm', 'cancel', 'time_out', 'late_lock', 'restore', 'extend', 'expire', 'revoke',
        'offer', 'accept', 'decline', 'withdraw', 'return')),
    from_status smallint NOT NULL,
    to_status smallint NOT NULL,
    -- The holder after the step, and the coupon's generation after it.
    user_ref text COLLATE "C" NOT NULL,
    gift_generation smallint NOT NULL,
    -- What it happened for: the id of an order, a refund, a gift, a revocation.
    cause_kind text NOT NULL CONSTRAINT coupon_operations_cause CHECK (cause_kind IN
        ('order', 'refund', 'gift', 'revocation', 'time')),
    cause_id text COLLATE "C" NOT NULL,
    -- Who did it: `key:7`, `user`, or `worker:expiry`.
    actor text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT coupon_operations_pkey PRIMARY KEY (template_id, serial, id)
);

-- An order's use of its coupons.
CREATE TABLE redemptions (
    order_id text COLLATE "C" NOT NULL CONSTRAINT redemptions_pkey PRIMARY KEY,
    status text NOT NULL CONSTRAINT redemptions_status CHECK
        (status IN ('locked', 'used', 'cancelled', 'timed_out', 'refunded', 'partially_refunded')),
    -- Null in the mark that a cancel leaves for an order that was never locked: a later lock is refused.
    checkout_id text COLLATE "C",
    user_ref text COLLATE "C",
    -- The order and its coupons as they were asked for: another request under the same id is refused.
    request_sha256 bytea,
    currency text,
    -- The order as it was priced, without its user, and the numbers that were locked (without codes).
    -- Refunds price the rest of it anew.
    placed_order jsonb,
    priced jsonb,
    goods_total numeric(20, 4),
    shipping_total numeric(20, 4),
    discount_total numeric(20, 4),
    payable numeric(20, 4),
    -- What refunds have taken back of the discount.
    reversed_total numeric(20, 4) NOT NULL DEFAULT 0,
    locked_at timestamptz,
    lock_expires_at timestamptz,
    used_at timestamptz,
    -- When it was cancelled or timed out.
    released_at timestamptz,
    -- When a confirm came too late and its coupons were gone: the shop absorbs it or refunds.
    conflict_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT redemptions_locked_whole CHECK (locked_at IS NULL OR
        (checkout_id IS NOT NULL AND user_ref IS NOT NULL AND request_sha256 IS NOT NULL AND currency IS NOT NULL
        AND placed_order IS NOT NULL AND priced IS NOT NULL AND discount_total IS NOT NULL AND payable IS NOT NULL
        AND lock_expires_at IS NOT NULL))
);
-- What the time-out worker looks at.
CREATE INDEX redemptions_due ON redemptions (lock_expires_at, order_id) WHERE status = 'locked';
-- A user locks at most so many checkouts a minute.
CREATE INDEX redemptions_by_user ON redemptions (user_ref, locked_at) WHERE user_ref IS NOT NULL;

-- The coupons of an order, each with what it takes off.
CREATE TABLE redemption_coupons (
    order_id text COLLATE "C" NOT NULL REFERENCES redemptions (order_id),
    template_id integer NOT NULL,
    serial bigint NOT NULL,
    epoch integer NOT NULL,
    gift_generation smallint NOT NULL,
    -- Its place in the order of computing.
    position smallint NOT NULL,
    -- `released`: cancelled or timed out. `returned`: given back by a refund.
    state text NOT NULL CONSTRAINT redemption_coupons_state CHECK (state IN ('locked', 'used', 'released', 'returned')),
    user_ref text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    -- Who bears the cost.
    issuer text NOT NULL,
    issuer_id text NOT NULL,
    discount numeric(20, 4) NOT NULL,
    -- What its gifts are worth, all pieces.
    gift_value numeric(20, 4) NOT NULL DEFAULT 0,
    -- {"lines":[{"line_id","share"}],"shipping":[{"merchant_id","share"}],"gifts":[{...}]}
    shares jsonb NOT NULL,
    -- What refunds have taken back of discount and gifts.
    reversed numeric(20, 4) NOT NULL DEFAULT 0,
    -- The coupon's validity at the first lock: a late confirm and a refund go by it.
    valid_from timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT redemption_coupons_pkey PRIMARY KEY (order_id, template_id, serial)
);
-- A coupon is held by one order: double use is refused by this index, not avoided by care.
CREATE UNIQUE INDEX redemption_coupons_once ON redemption_coupons (template_id, serial)
    WHERE state IN ('locked', 'used');
-- How often a user uses a template.
CREATE INDEX redemption_coupons_by_user ON redemption_coupons (user_ref, template_id)
    WHERE state IN ('locked', 'used');

-- Who owes whom for a discount. Each entry is two rows whose amounts add up to zero: the bearer's, who
-- pays, and the beneficiary's, the merchant who sold the line. Refunds book the opposite. Never changed.
CREATE TABLE settlement_entries (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT settlement_entries_pkey PRIMARY KEY,
    -- The two rows of an entry share it.
    entry uuid NOT NULL,
    side text NOT NULL CONSTRAINT settlement_entries_side CHECK (side IN ('bearer', 'beneficiary')),
    party text NOT NULL CONSTRAINT settlement_entries_party CHECK (party IN ('platform', 'merchant', 'streamer')),
    party_id text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    -- Negative: owes. Positive: is owed.
    amount numeric(20, 4) NOT NULL CONSTRAINT settlement_entries_amount CHECK (amount <> 0),
    order_id text COLLATE "C" NOT NULL,
    -- Null: booked by the confirm.
    refund_id text COLLATE "C",
    template_id integer NOT NULL,
    serial bigint NOT NULL,
    -- `line`, `shipping` or `gift`, and the line's, merchant's or item's id.
    subject text NOT NULL CONSTRAINT settlement_entries_subject CHECK (subject IN ('line', 'shipping', 'gift')),
    subject_id text COLLATE "C" NOT NULL,
    booked_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX settlement_entries_by_order ON settlement_entries (order_id, id);
CREATE INDEX settlement_entries_by_party ON settlement_entries (party, party_id, booked_at, id);

-- Counters of a template and day, in several slots so that parallel transactions do not wait for one
-- row: a reader adds the slots up. Each is written by the transaction that it counts.
CREATE TABLE coupon_counters (
    template_id integer NOT NULL,
    -- In the template's time zone.
    day date NOT NULL,
    -- Of the PostgreSQL process that wrote it.
    slot smallint NOT NULL,
    issued bigint NOT NULL DEFAULT 0,
    -- Coupons in the state now: rises and falls, so that only the sum over all days says something.
    locked bigint NOT NULL DEFAULT 0,
    used bigint NOT NULL DEFAULT 0,
    restored bigint NOT NULL DEFAULT 0,
    expired bigint NOT NULL DEFAULT 0,
    revoked bigint NOT NULL DEFAULT 0,
    gifted bigint NOT NULL DEFAULT 0,
    -- Orders that used at least one.
    orders bigint NOT NULL DEFAULT 0,
    discount_total numeric(24, 4) NOT NULL DEFAULT 0,
    discount_reversed numeric(24, 4) NOT NULL DEFAULT 0,
    gift_total numeric(24, 4) NOT NULL DEFAULT 0,
    gift_reversed numeric(24, 4) NOT NULL DEFAULT 0,
    -- What the orders with the coupon paid, and what was paid back of it.
    revenue numeric(24, 4) NOT NULL DEFAULT 0,
    revenue_refunded numeric(24, 4) NOT NULL DEFAULT 0,
    CONSTRAINT coupon_counters_pkey PRIMARY KEY (template_id, day, slot)
) WITH (fillfactor = 50);

-- What others are to be told, written by the transaction that did it, in order per coupon.
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT events_pkey PRIMARY KEY,
    -- As `coupon.used`.
    kind text NOT NULL,
    template_id integer NOT NULL,
    serial bigint NOT NULL,
    user_ref text COLLATE "C" NOT NULL,
    data jsonb NOT NULL,
    -- Readers go on behind a place only when all that were begun before it have ended.
    written_by xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Money taken back. A refund is named by the shop; repeated, it answers as it did.
CREATE TABLE refunds (
    refund_id text COLLATE "C" NOT NULL CONSTRAINT refunds_pkey PRIMARY KEY,
    order_id text COLLATE "C" NOT NULL REFERENCES redemptions (order_id),
    request_sha256 bytea NOT NULL,
    reason text NOT NULL,
    shipping_refunded boolean NOT NULL,
    reversed_total numeric(20, 4) NOT NULL,
    -- The answer's coupons, without codes.
    outcome jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refunds_by_order ON refunds (order_id, created_at);

-- Units of a line that a refund took back.
CREATE TABLE refund_lines (
    refund_id text COLLATE "C" NOT NULL REFERENCES refunds (refund_id),
    line_id text COLLATE "C" NOT NULL,
    quantity integer NOT NULL CONSTRAINT refund_lines_quantity CHECK (quantity > 0),
    reversed numeric(20, 4) NOT NULL,
    CONSTRAINT refund_lines_pkey PRIMARY KEY (refund_id, line_id)
);
