-- Tasks, budgets, usage records, their rollups, and the audit log.
-- Times are microseconds since 1970 UTC, hashes 32-byte blobs, money nano-USD.

-- One row for each task that was ever admitted, keyed by the sequence of its
-- task.started entry. (consumer, envelope_id) is kept for ever: it is what makes
-- a retry a retry. envelope_id is null once a task was released.
CREATE TABLE tasks (
    seq                INTEGER PRIMARY KEY,
    task_id            TEXT    NOT NULL UNIQUE,
    consumer           TEXT    NOT NULL,
    envelope_id        TEXT,
    digest             BLOB    NOT NULL,
    agent              TEXT    NOT NULL,
    verified           INTEGER NOT NULL,
    skill              TEXT    NOT NULL,
    parent_task        TEXT    NOT NULL,
    trace_id           TEXT    NOT NULL,
    links              INTEGER NOT NULL,           -- rows in task_links
    ceiling_nano_usd   INTEGER CHECK (ceiling_nano_usd >= 0),
    started_us         INTEGER NOT NULL,
    expires_us         INTEGER,                    -- null: never
    state              INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3), -- held, settled, released, expired
    ended_us           INTEGER,
    end_seq            INTEGER,                    -- of the entry that ended it
    record_id          TEXT,
    settlement         BLOB,
    failure            TEXT,
    charged_nano_usd   INTEGER,
    instance           TEXT,                       -- run of a node that holds it; null once it ended
    UNIQUE (consumer, envelope_id),
    CHECK ((state = 0) = (end_seq IS NULL))
) STRICT;

CREATE INDEX tasks_held ON tasks (seq) WHERE state = 0;

-- What a retry is answered; dropped after its keep time.
CREATE TABLE answers (
    task_seq INTEGER PRIMARY KEY REFERENCES tasks (seq),
    ended_us INTEGER NOT NULL,
    answer   BLOB    NOT NULL
) STRICT;

-- The delegation chain of a task, root first. The state of the hold is that of
-- the task: all links of a chain are held, settled, released or expired together.
CREATE TABLE task_links (
    task_seq INTEGER NOT NULL REFERENCES tasks (seq),
    link     INTEGER NOT NULL,
    issuer   TEXT    NOT NULL,
    token_id TEXT    NOT NULL,
    PRIMARY KEY (task_seq, link)
) STRICT, WITHOUT ROWID;

-- One counter for each delegation token. The checks are the last line of
-- defence: nothing that breaks a limit can be committed.
CREATE TABLE budgets (
    issuer           TEXT    NOT NULL,
    token_id         TEXT    NOT NULL,
    limit_tasks      INTEGER,
    limit_nano_usd   INTEGER,
    used_tasks       INTEGER NOT NULL CHECK (used_tasks >= 0),
    held_tasks       INTEGER NOT NULL CHECK (held_tasks >= 0),
    used_nano_usd    INTEGER NOT NULL CHECK (used_nano_usd >= 0),
    held_nano_usd    INTEGER NOT NULL CHECK (held_nano_usd >= 0),
    overrun_nano_usd INTEGER NOT NULL CHECK (overrun_nano_usd >= 0),
    PRIMARY KEY (issuer, token_id),
    CHECK (limit_tasks IS NULL OR used_tasks + held_tasks <= limit_tasks),
    CHECK (limit_nano_usd IS NULL OR used_nano_usd + held_nano_usd <= limit_nano_usd)
) STRICT, WITHOUT ROWID;

-- Usage records. octets is the record: its canonical JSON, whose SHA-256 is the
-- row_hash of the entry; the other columns are an index of it.
CREATE TABLE usage_records (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    digest       BLOB    NOT NULL,                 -- of what was reported
    entry_seq    INTEGER NOT NULL,
    timestamp_us INTEGER NOT NULL,
    agent        TEXT    NOT NULL,
    consumer     TEXT    NOT NULL,
    task_id      TEXT    NOT NULL,
    skill        TEXT    NOT NULL,
    outcome      TEXT    NOT NULL,
    delegation   TEXT,                             -- token id of the leaf
    ref          TEXT,                             -- of a correction
    task_seq     INTEGER,                          -- of the task it settles; null: reported or a correction
    octets       BLOB    NOT NULL
) STRICT;

CREATE INDEX usage_records_time       ON usage_records (timestamp_us);
CREATE INDEX usage_records_agent      ON usage_records (agent, timestamp_us);
CREATE INDEX usage_records_consumer   ON usage_records (consumer, timestamp_us);
-- The record that settles a task is found through the task.
CREATE INDEX usage_records_task       ON usage_records (task_id) WHERE task_seq IS NULL;
CREATE INDEX usage_records_delegation ON usage_records (delegation, timestamp_us) WHERE delegation IS NOT NULL;
CREATE INDEX usage_records_ref        ON usage_records (ref) WHERE ref IS NOT NULL;

-- The keys of purged records: an id counts once, for ever.
CREATE TABLE purged_records (
    id        TEXT    NOT NULL PRIMARY KEY,
    digest    BLOB    NOT NULL,
    task_id   TEXT    NOT NULL,
    entry_seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX purged_records_task ON purged_records (task_id);

-- Totals of an hour (span 0), of a day (span 1) and of a month (span 2). Every record is in the cell
-- with delegation ''; a delegated one in that of its token as well.
CREATE TABLE usage_rollups (
    span          INTEGER NOT NULL,
    start_us      INTEGER NOT NULL,
    delegation    TEXT    NOT NULL,
    agent         TEXT    NOT NULL,
    consumer      TEXT    NOT NULL,
    outcome       TEXT    NOT NULL,
    skill         TEXT    NOT NULL,
    tasks         INTEGER NOT NULL,
    tokens_in     INTEGER NOT NULL,
    tokens_out    INTEGER NOT NULL,
    api_calls     INTEGER NOT NULL,
    duration_ms   INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    unpriced      INTEGER NOT NULL,
    unreported    INTEGER NOT NULL,
    PRIMARY KEY (span, delegation, start_us, agent, consumer, outcome, skill)
) STRICT, WITHOUT ROWID;

-- Single values: one row.
CREATE TABLE ledger_counters (
    id               INTEGER PRIMARY KEY CHECK (id = 1),
    records          INTEGER NOT NULL,             -- sequence of the newest usage record
    purged           INTEGER NOT NULL,             -- how many of them are gone
    purged_before_us INTEGER                       -- retention mark; null: nothing was ever purged
) STRICT;
INSERT INTO ledger_counters (id, records, purged) VALUES (1, 0, 0);

CREATE TABLE price_lists (
    hash      TEXT    NOT NULL PRIMARY KEY,
    agent     TEXT    NOT NULL,
    canonical BLOB    NOT NULL,
    at_us     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The audit log (docs/audit-format.md). octets is the entry; the other columns
-- are an index of it.
CREATE TABLE audit_entries (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL,
    timestamp_us INTEGER NOT NULL,
    event_type   TEXT    NOT NULL,
    actor        TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    octets       BLOB    NOT NULL,
    hash         BLOB    NOT NULL
) STRICT;

-- Entries about tasks and usage are found through tasks and usage_records, and
-- the common types by walking the log; these indexes hold the others. (NOT IN would
-- build a table of its list for every row.)
CREATE INDEX audit_entries_subject ON audit_entries (subject)
    WHERE event_type <> 'task.started' AND event_type <> 'task.completed' AND event_type <> 'task.failed'
      AND event_type <> 'task.released' AND event_type <> 'usage.recorded' AND event_type <> 'usage.corrected';
CREATE INDEX audit_entries_type ON audit_entries (event_type)
    WHERE event_type <> 'task.started' AND event_type <> 'task.completed' AND event_type <> 'usage.recorded';

-- Which URNs the entries of a block of 64 (seq / 64) concern, as actor, subject
-- or party: what an agent may see of the log is found in a few blocks.
CREATE TABLE audit_blocks (
    urn   TEXT    NOT NULL,
    block INTEGER NOT NULL,
    PRIMARY KEY (urn, block)
) STRICT, WITHOUT ROWID;

-- The newest entry; no row while the log is empty.
CREATE TABLE audit_head (
    seq  INTEGER NOT NULL,
    hash BLOB    NOT NULL
) STRICT;

CREATE TABLE audit_checkpoints (
    size INTEGER NOT NULL,
    root BLOB    NOT NULL,
    note TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_checkpoints_size ON audit_checkpoints (size);

-- The Merkle tree: the roots of perfect subtrees of 2^8, 2^16, 2^24, ... leaves, so
-- that a proof need not read every entry. They are an index: what is missing is
-- computed from the entries.
CREATE TABLE audit_tree (
    level    INTEGER NOT NULL,
    position INTEGER NOT NULL,                      -- covers the leaves from position << level on
    hash     BLOB    NOT NULL,
    PRIMARY KEY (level, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_prune (
    min_index       INTEGER NOT NULL,
    head_hash       BLOB    NOT NULL,
    compact_range   BLOB    NOT NULL,
    checkpoint_size INTEGER NOT NULL,
    at_us           INTEGER NOT NULL
) STRICT;

-- Guards. They stop accidents; the hash chain is what detects intent.
CREATE TRIGGER audit_entries_no_update BEFORE UPDATE ON audit_entries
BEGIN SELECT RAISE(ABORT, 'audit entries cannot be changed'); END;

CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries
WHEN OLD.seq >= coalesce((SELECT max(min_index) FROM audit_prune), 0)
BEGIN SELECT RAISE(ABORT, 'audit entries cannot be deleted'); END;

-- REPLACE deletes without asking the trigger above. ROLLBACK and not ABORT: what
-- can abort makes SQLite copy every page it touches, in case it has to be undone.
CREATE TRIGGER audit_entries_no_replace BEFORE INSERT ON audit_entries
WHEN NEW.seq <= (SELECT seq FROM audit_head)
BEGIN SELECT RAISE(ROLLBACK, 'audit entries cannot be replaced'); END;

CREATE TRIGGER audit_checkpoints_no_update BEFORE UPDATE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'audit checkpoints cannot be changed'); END;

CREATE TRIGGER audit_checkpoints_no_delete BEFORE DELETE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'audit checkpoints cannot be deleted'); END;

CREATE TRIGGER usage_records_no_update BEFORE UPDATE ON usage_records
BEGIN SELECT RAISE(ABORT, 'usage records cannot be changed; make a correction'); END;

-- A purge moves the retention mark first, and only what is behind it may go.
CREATE TRIGGER usage_records_no_delete BEFORE DELETE ON usage_records
WHEN OLD.timestamp_us >= coalesce((SELECT purged_before_us FROM ledger_counters), -9223372036854775808)
BEGIN SELECT RAISE(ABORT, 'usage records cannot be deleted but by a purge'); END;

CREATE TRIGGER usage_records_no_replace BEFORE INSERT ON usage_records
WHEN NEW.seq <= (SELECT records FROM ledger_counters)
BEGIN SELECT RAISE(ROLLBACK, 'usage records cannot be replaced'); END;
