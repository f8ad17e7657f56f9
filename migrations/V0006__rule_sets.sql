-- Named sets of usage rules, which templates name instead of rules of their own.
-- Operational story: the new column is computed for every template, so coupon_templates is rewritten
-- under an exclusive lock. It holds thousands of rows, not millions: milliseconds. Nothing reads the
-- new objects before the binary that brings them runs, and the binary before it goes on meanwhile.
CREATE TABLE rule_sets (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer text NOT NULL CONSTRAINT rule_sets_issuer CHECK (issuer IN ('platform', 'merchant', 'streamer')),
    issuer_id text NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    -- [{rule_type, params, priority}], validated.
    usage_rules jsonb NOT NULL,
    -- Rises with every change.
    revision bigint NOT NULL DEFAULT 1,
    author_key_id integer NOT NULL REFERENCES api_keys (id),
    -- Every key that wrote any of it: none of them may approve a template that names it.
    editor_key_ids integer[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT rule_sets_name UNIQUE (issuer, issuer_id, name)
);

-- A template's copy of the rules is part of its definition; this is the name it was taken by. While
-- a template holds it, the set can be neither deleted nor renamed.
ALTER TABLE coupon_templates
    ADD COLUMN rule_set text GENERATED ALWAYS AS (definition ->> 'rule_set') STORED,
    ADD CONSTRAINT coupon_templates_rule_set FOREIGN KEY (issuer, issuer_id, rule_set)
        REFERENCES rule_sets (issuer, issuer_id, name);
CREATE INDEX coupon_templates_by_rule_set ON coupon_templates (issuer, issuer_id, rule_set) WHERE rule_set IS NOT NULL;
