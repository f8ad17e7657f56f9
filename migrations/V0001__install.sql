-- What is fixed when a deployment is made. One row.
-- Operational story: written by the first `floodgate migrate`; never changed afterwards.
CREATE TABLE install (
    only_row boolean PRIMARY KEY DEFAULT true CONSTRAINT install_one_row CHECK (only_row),
    -- Whether user ids are stored encrypted. Changing it would count one user twice.
    privacy_encrypt boolean NOT NULL,
    -- Tells a wrong code key at start, before it makes codes that no one can open.
    code_key_fingerprint bigint NOT NULL,
    cells smallint NOT NULL CONSTRAINT install_one_cell CHECK (cells = 1),
    created_at timestamptz NOT NULL DEFAULT now()
);
