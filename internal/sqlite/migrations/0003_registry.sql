-- Registered agents. document is what the source said: a signed manifest, or an
-- entry of a Lite Registry; null for an agent that was removed, whose row stays
-- so that neither an older manifest nor a foreign key takes its place.
CREATE TABLE registry_agents (
    agent         TEXT    NOT NULL PRIMARY KEY,
    entry_seq     INTEGER NOT NULL,                 -- audit entry of the last change
    source        TEXT    NOT NULL CHECK (source IN ('signed', 'imported')),
    version       TEXT    NOT NULL,                 -- of the manifest, PEP 440
    content       BLOB    NOT NULL,                 -- hash of what the source says, whoever signed it
    document      BLOB,
    registered_us INTEGER NOT NULL,
    updated_us    INTEGER NOT NULL
) STRICT;

CREATE INDEX registry_agents_entry ON registry_agents (entry_seq);

-- The keys pinned for an agent.
CREATE TABLE registry_keys (
    agent      TEXT    NOT NULL REFERENCES registry_agents (agent),
    position   INTEGER NOT NULL,                    -- oldest first
    public_key BLOB    NOT NULL CHECK (length(public_key) = 32),
    added_us   INTEGER NOT NULL,
    PRIMARY KEY (agent, position)
) STRICT, WITHOUT ROWID;
