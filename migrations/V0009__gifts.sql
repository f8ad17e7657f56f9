-- Coupons given away (转赠), and answers that shoppers own.
-- Operational story: coupon_gifts is new. idempotency_keys is rewritten under an exclusive lock; it holds a
-- day of administrative writes: milliseconds. The binary before this one goes on with the unique index on
-- (api_key_id, key) and never meets the rows that shoppers own.

-- Each offer of a coupon, whatever became of it; one that was accepted is the coupon's passage from one user
-- to another. Its token is never stored: it is computed from the id.
CREATE TABLE coupon_gifts (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT coupon_gifts_pkey PRIMARY KEY,
    template_id integer NOT NULL,
    serial bigint NOT NULL,
    -- The coupon's gift generation while it is offered; acceptance raises it by one.
    gift_generation smallint NOT NULL,
    giver_ref text COLLATE "C" NOT NULL,
    -- Who accepted it.
    receiver_ref text COLLATE "C",
    state text NOT NULL DEFAULT 'offered' CONSTRAINT coupon_gifts_state CHECK
        (state IN ('offered', 'accepted', 'declined', 'withdrawn', 'returned', 'revoked')),
    offered_at timestamptz NOT NULL DEFAULT now(),
    -- When it returns to its giver; never later than the coupon's own end.
    expires_at timestamptz NOT NULL,
    closed_at timestamptz,
    CONSTRAINT coupon_gifts_closed CHECK ((state = 'offered') = (closed_at IS NULL)),
    CONSTRAINT coupon_gifts_receiver CHECK ((state = 'accepted') = (receiver_ref IS NOT NULL)),
    CONSTRAINT coupon_gifts_two_users CHECK (receiver_ref <> giver_ref)
);
-- A coupon is offered once at a time, and leaves each pair of hands once: refused here, not avoided by care.
CREATE UNIQUE INDEX coupon_gifts_one_offer ON coupon_gifts (template_id, serial) WHERE state = 'offered';
CREATE UNIQUE INDEX coupon_gifts_one_passage ON coupon_gifts (template_id, serial, gift_generation)
    WHERE state = 'accepted';
-- A coupon's history.
CREATE INDEX coupon_gifts_by_coupon ON coupon_gifts (template_id, serial, id);
-- What the worker looks at.
CREATE INDEX coupon_gifts_due ON coupon_gifts (expires_at, id) WHERE state = 'offered';
-- What a user gave and received.
CREATE INDEX coupon_gifts_given ON coupon_gifts (giver_ref, id);
CREATE INDEX coupon_gifts_received ON coupon_gifts (receiver_ref, id) WHERE receiver_ref IS NOT NULL;

-- An answer is owned by the API key or the shopper that asked.
ALTER TABLE idempotency_keys
    DROP CONSTRAINT idempotency_keys_pkey,
    ALTER COLUMN api_key_id DROP NOT NULL,
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT idempotency_keys_pkey PRIMARY KEY,
    ADD COLUMN user_ref text COLLATE "C",
    -- The body of an answer that holds codes or tokens, encrypted.
    ADD COLUMN sealed bytea,
    ADD CONSTRAINT idempotency_keys_of_key UNIQUE (api_key_id, key),
    ADD CONSTRAINT idempotency_keys_of_user UNIQUE (user_ref, key),
    ADD CONSTRAINT idempotency_keys_owner CHECK ((api_key_id IS NULL) <> (user_ref IS NULL)),
    ADD CONSTRAINT idempotency_keys_one_body CHECK (answer IS NULL OR sealed IS NULL);
