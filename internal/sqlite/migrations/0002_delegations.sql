-- Delegation tokens that the node signed or that were used here, one link each:
-- for lists, and to know who is above whom. Their counters are in budgets.
CREATE TABLE delegations (
    seq            INTEGER PRIMARY KEY,             -- order of first sight
    issuer         TEXT    NOT NULL,
    token_id       TEXT    NOT NULL,
    delegate       TEXT    NOT NULL,
    above          TEXT    NOT NULL,                -- JSON: [[issuer, token id], ...], root first
    scopes         TEXT    NOT NULL,                -- JSON list
    resources      TEXT    NOT NULL,                -- JSON list
    limit_tasks    INTEGER,
    limit_nano_usd INTEGER,
    max_depth      INTEGER,
    bound_key      TEXT    NOT NULL,
    issued_us      INTEGER NOT NULL,
    expires_us     INTEGER NOT NULL,
    signed         INTEGER NOT NULL,                -- by this node
    seen_us        INTEGER NOT NULL,
    UNIQUE (issuer, token_id)
) STRICT;

CREATE INDEX delegations_delegate ON delegations (delegate);
CREATE INDEX delegations_token_id ON delegations (token_id);

-- Revoked tokens. A row ends everything below it as well, whether or not that is
-- in the table above.
CREATE TABLE revocations (
    issuer    TEXT    NOT NULL,
    token_id  TEXT    NOT NULL,
    at_us     INTEGER NOT NULL,
    actor     TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    entry_seq INTEGER NOT NULL,
    PRIMARY KEY (issuer, token_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX revocations_entry ON revocations (entry_seq);

-- Limits of tokens that came near their end: each percentage once.
CREATE TABLE limit_warnings (
    issuer   TEXT    NOT NULL,
    token_id TEXT    NOT NULL,
    unit     TEXT    NOT NULL,                      -- tasks, cost
    percent  INTEGER NOT NULL,
    seq      INTEGER NOT NULL,                      -- of the entry of the task that used it up
    at_us    INTEGER NOT NULL,
    of_limit INTEGER NOT NULL,
    used     INTEGER NOT NULL,
    PRIMARY KEY (issuer, token_id, unit, percent)
) STRICT, WITHOUT ROWID;

CREATE INDEX limit_warnings_seq ON limit_warnings (seq);

CREATE TRIGGER revocations_no_update BEFORE UPDATE ON revocations
BEGIN SELECT RAISE(ABORT, 'revocations cannot be changed'); END;

CREATE TRIGGER revocations_no_delete BEFORE DELETE ON revocations
BEGIN SELECT RAISE(ABORT, 'revocations cannot be taken back'); END;
