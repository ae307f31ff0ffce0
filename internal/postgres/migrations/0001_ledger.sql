-- Tasks, budgets, usage records, their rollups, the audit log, delegations,
-- registered agents and service levels.
-- Times are microseconds (_us) or milliseconds (_ms) since 1970 UTC, hashes 32
-- bytes, money nano-USD. Texts that are keys sort by their bytes on every server.

-- The newest entry of the audit log and the counters of the store: one row,
-- written by every commit of the ledger. Whoever changes the ledger holds the
-- chain lock (an advisory lock) from before it reads this row to its commit.
CREATE TABLE ledger_head (
    one              boolean PRIMARY KEY CHECK (one),
    version          bigint  NOT NULL,              -- commits of the ledger so far
    seq              bigint  NOT NULL,              -- of the newest entry; -1: none
    hash             bytea,                         -- of the newest entry
    records          bigint  NOT NULL,              -- sequence of the newest usage record
    purged           bigint  NOT NULL,              -- how many of them are gone
    purged_before_us bigint                         -- retention mark; null: nothing was ever purged
) WITH (fillfactor = 10);
INSERT INTO ledger_head VALUES (true, 0, -1, NULL, 0, 0, NULL);

-- The parts of partitioned tables. The ledger makes one when it first writes to it.
CREATE TABLE partitions (
    parent text   NOT NULL,
    first  bigint NOT NULL,                         -- first key in it
    until  bigint NOT NULL,                         -- first key after it
    name   text   NOT NULL,
    PRIMARY KEY (parent, first)
);

-- One row for each task that was ever admitted, keyed by the sequence of its
-- task.started entry. (consumer, envelope_id) is kept for ever: it is what makes
-- a retry a retry. envelope_id is null once a task was released. Nothing else of
-- a row changes: how a task ended is a row of task_ends.
CREATE TABLE tasks (
    seq              bigint  PRIMARY KEY,
    task_id          text    COLLATE "C" NOT NULL UNIQUE,
    consumer         text    COLLATE "C" NOT NULL,
    envelope_id      text    COLLATE "C",
    digest           bytea   NOT NULL,
    agent            text    COLLATE "C" NOT NULL,
    verified         boolean NOT NULL,
    skill            text    NOT NULL,
    parent_task      text    NOT NULL,
    trace_id         text    NOT NULL,
    links            text,                          -- JSON: [[issuer, token id], ...], root first; null: none
    ceiling_nano_usd bigint  CHECK (ceiling_nano_usd >= 0),
    started_us       bigint  NOT NULL,
    expires_us       bigint,                        -- null: never
    UNIQUE (consumer, envelope_id)
);

-- Tasks that are held, by whom: a small table, so that what is looked for among
-- them costs nothing however many tasks there were.
CREATE TABLE holds (
    task_seq   bigint PRIMARY KEY,
    started_us bigint NOT NULL,
    expires_us bigint,
    instance   text   NOT NULL                      -- run of a node that admitted it
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

CREATE TABLE task_ends (
    task_seq         bigint   PRIMARY KEY,
    state            smallint NOT NULL CHECK (state BETWEEN 1 AND 3), -- settled, released, expired
    ended_us         bigint   NOT NULL,
    end_seq          bigint   NOT NULL,             -- of the entry that ended it
    record_id        text     COLLATE "C",
    settlement       bytea,
    failure          text,
    charged_nano_usd bigint
);

-- What a retry is answered; dropped after its keep time.
CREATE TABLE answers (
    task_seq bigint PRIMARY KEY,
    ended_us bigint NOT NULL,
    answer   bytea  NOT NULL
);
CREATE INDEX answers_ended ON answers (ended_us);

-- One counter for each delegation token. The checks are the last line of
-- defence: nothing that breaks a limit can be committed.
CREATE TABLE budgets (
    issuer           text   COLLATE "C" NOT NULL,
    token_id         text   COLLATE "C" NOT NULL,
    limit_tasks      bigint,
    limit_nano_usd   bigint,
    used_tasks       bigint NOT NULL CHECK (used_tasks >= 0),
    held_tasks       bigint NOT NULL CHECK (held_tasks >= 0),
    used_nano_usd    bigint NOT NULL CHECK (used_nano_usd >= 0),
    held_nano_usd    bigint NOT NULL CHECK (held_nano_usd >= 0),
    overrun_nano_usd bigint NOT NULL CHECK (overrun_nano_usd >= 0),
    PRIMARY KEY (issuer, token_id),
    CHECK (limit_tasks IS NULL OR used_tasks + held_tasks <= limit_tasks),
    CHECK (limit_nano_usd IS NULL OR used_nano_usd + held_nano_usd <= limit_nano_usd)
) WITH (fillfactor = 50);

-- Usage records, a partition for each month. octets is the record: its canonical
-- JSON, whose SHA-256 is the row_hash of the entry; the other columns are an
-- index of it.
CREATE TABLE usage_records (
    timestamp_us bigint NOT NULL,
    seq          bigint NOT NULL,
    id           text   COLLATE "C" NOT NULL,
    entry_seq    bigint NOT NULL,
    agent        text   COLLATE "C" NOT NULL,
    consumer     text   COLLATE "C" NOT NULL,
    task_id      text   COLLATE "C" NOT NULL,
    skill        text   NOT NULL,
    outcome      text   NOT NULL,
    delegation   text   COLLATE "C",                -- token id of the leaf
    ref          text   COLLATE "C",                -- of a correction
    task_seq     bigint,                            -- of the task it settles; null: reported or a correction
    octets       bytea  NOT NULL,
    PRIMARY KEY (timestamp_us, seq)
) PARTITION BY RANGE (timestamp_us);

CREATE INDEX usage_records_seq        ON usage_records (seq);
CREATE INDEX usage_records_agent      ON usage_records (agent, timestamp_us, seq);
CREATE INDEX usage_records_consumer   ON usage_records (consumer, timestamp_us, seq);
-- The record that settles a task is found through the task.
CREATE INDEX usage_records_task       ON usage_records (task_id) WHERE task_seq IS NULL;
CREATE INDEX usage_records_delegation ON usage_records (delegation, timestamp_us) WHERE delegation IS NOT NULL;
CREATE INDEX usage_records_ref        ON usage_records (ref) WHERE ref IS NOT NULL;

-- The key of every record that ever was, and where it is: no unique key spans
-- the months, and an id counts once, for ever.
CREATE TABLE usage_ids (
    id           text    COLLATE "C" PRIMARY KEY,
    seq          bigint  NOT NULL,
    timestamp_us bigint  NOT NULL,
    digest       bytea   NOT NULL,                  -- of what was reported
    entry_seq    bigint  NOT NULL,
    purged       boolean NOT NULL DEFAULT false,
    task_id      text    COLLATE "C"                -- of a purged record
) WITH (fillfactor = 90);
CREATE INDEX usage_ids_task  ON usage_ids (task_id) WHERE purged;
CREATE INDEX usage_ids_entry ON usage_ids (entry_seq) WHERE purged;

-- Totals of an hour (span 0), of a day (span 1) and of a month (span 2). Every
-- record is in the cell with delegation ''; a delegated one in that of its token
-- as well.
CREATE TABLE usage_rollups (
    span          smallint NOT NULL,
    start_us      bigint   NOT NULL,
    delegation    text     COLLATE "C" NOT NULL,
    agent         text     COLLATE "C" NOT NULL,
    consumer      text     COLLATE "C" NOT NULL,
    outcome       text     COLLATE "C" NOT NULL,
    skill         text     COLLATE "C" NOT NULL,
    tasks         bigint   NOT NULL,
    tokens_in     bigint   NOT NULL,
    tokens_out    bigint   NOT NULL,
    api_calls     bigint   NOT NULL,
    duration_ms   bigint   NOT NULL,
    cost_nano_usd bigint   NOT NULL,
    unpriced      bigint   NOT NULL,
    unreported    bigint   NOT NULL,
    PRIMARY KEY (span, delegation, start_us, agent, consumer, outcome, skill)
) WITH (fillfactor = 50);

CREATE TABLE price_lists (
    hash      text   COLLATE "C" PRIMARY KEY,
    agent     text   NOT NULL,
    canonical bytea  NOT NULL,
    at_us     bigint NOT NULL
);

-- The audit log (docs/audit-format.md), in partitions of so many entries. octets
-- is the entry; the other columns are an index of it.
CREATE TABLE audit_entries (
    seq          bigint PRIMARY KEY,
    id           text   COLLATE "C" NOT NULL,
    timestamp_us bigint NOT NULL,
    event_type   text   NOT NULL,
    actor        text   COLLATE "C" NOT NULL,
    subject      text   COLLATE "C" NOT NULL,
    octets       bytea  NOT NULL,
    hash         bytea  NOT NULL
) PARTITION BY RANGE (seq);

-- Entries about tasks and usage are found through tasks and usage_records, and
-- the common types by walking the log; these indexes hold the others.
CREATE INDEX audit_entries_subject ON audit_entries (subject, seq)
    WHERE event_type NOT IN ('task.started', 'task.completed', 'task.failed', 'task.released', 'usage.recorded', 'usage.corrected');
CREATE INDEX audit_entries_type ON audit_entries (event_type, seq)
    WHERE event_type NOT IN ('task.started', 'task.completed', 'usage.recorded');

-- Which URNs the entries of a block of 64 (seq / 64) concern, as actor, subject
-- or party: what an agent may see of the log is found in a few blocks.
CREATE TABLE audit_blocks (
    urn   text   COLLATE "C" NOT NULL,
    block bigint NOT NULL,
    PRIMARY KEY (urn, block)
);

CREATE TABLE audit_checkpoints (
    number bigint GENERATED ALWAYS AS IDENTITY,
    size   bigint NOT NULL,
    root   bytea  NOT NULL,
    note   text   NOT NULL,
    PRIMARY KEY (size, number)
);

-- The Merkle tree: the roots of perfect subtrees of 2^8, 2^16, 2^24, ... leaves, so
-- that a proof need not read every entry. They are an index: what is missing is
-- computed from the entries.
CREATE TABLE audit_tree (
    level    smallint NOT NULL,
    position bigint   NOT NULL,                     -- covers the leaves from position << level on
    hash     bytea    NOT NULL,
    PRIMARY KEY (level, position)
);

CREATE TABLE audit_prune (
    min_index       bigint NOT NULL,
    head_hash       bytea  NOT NULL,
    compact_range   bytea  NOT NULL,
    checkpoint_size bigint NOT NULL,
    at_us           bigint NOT NULL
);

-- Delegation tokens that the node signed or that were used here, one link each:
-- for lists, and to know who is above whom. Their counters are in budgets.
CREATE TABLE delegations (
    seq            bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- order of first sight
    issuer         text    COLLATE "C" NOT NULL,
    token_id       text    COLLATE "C" NOT NULL,
    delegate       text    COLLATE "C" NOT NULL,
    above          jsonb   NOT NULL,                -- [[issuer, token id], ...], root first
    scopes         jsonb   NOT NULL,
    resources      jsonb   NOT NULL,
    limit_tasks    bigint,
    limit_nano_usd bigint,
    max_depth      bigint,
    bound_key      text    NOT NULL,
    issued_us      bigint  NOT NULL,
    expires_us     bigint  NOT NULL,
    signed         boolean NOT NULL,                -- by this node
    seen_us        bigint  NOT NULL,
    UNIQUE (issuer, token_id)
);
CREATE INDEX delegations_delegate ON delegations (delegate);
CREATE INDEX delegations_token_id ON delegations (token_id);

-- Revoked tokens. A row ends everything below it as well, whether or not that is
-- in the table above.
CREATE TABLE revocations (
    issuer    text   COLLATE "C" NOT NULL,
    token_id  text   COLLATE "C" NOT NULL,
    at_us     bigint NOT NULL,
    actor     text   NOT NULL,
    reason    text   NOT NULL,
    entry_seq bigint NOT NULL,
    PRIMARY KEY (issuer, token_id)
);
CREATE INDEX revocations_entry ON revocations (entry_seq);

-- Limits of tokens that came near their end: each percentage once.
CREATE TABLE limit_warnings (
    issuer   text   COLLATE "C" NOT NULL,
    token_id text   COLLATE "C" NOT NULL,
    unit     text   COLLATE "C" NOT NULL,           -- tasks, cost
    percent  bigint NOT NULL,
    seq      bigint NOT NULL,                       -- of the entry of the task that used it up
    at_us    bigint NOT NULL,
    of_limit bigint NOT NULL,
    used     bigint NOT NULL,
    PRIMARY KEY (issuer, token_id, unit, percent)
);
CREATE INDEX limit_warnings_seq ON limit_warnings (seq);

-- Registered agents. document is what the source said: a signed manifest, or an
-- entry of a Lite Registry; null for an agent that was removed, whose row stays
-- so that neither an older manifest nor a foreign key takes its place.
CREATE TABLE registry_agents (
    agent         text   COLLATE "C" PRIMARY KEY,
    entry_seq     bigint NOT NULL,                  -- audit entry of the last change
    source        text   NOT NULL CHECK (source IN ('signed', 'imported')),
    version       text   NOT NULL,                  -- of the manifest, PEP 440
    content       bytea  NOT NULL,                  -- hash of what the source says, whoever signed it
    document      bytea,
    registered_us bigint NOT NULL,
    updated_us    bigint NOT NULL
);
CREATE INDEX registry_agents_entry ON registry_agents (entry_seq);

-- The keys pinned for an agent.
CREATE TABLE registry_keys (
    agent      text   COLLATE "C" NOT NULL REFERENCES registry_agents (agent),
    position   bigint NOT NULL,                     -- oldest first
    public_key bytea  NOT NULL CHECK (length(public_key) = 32),
    added_us   bigint NOT NULL,
    PRIMARY KEY (agent, position)
);

-- What is known of each agent's service beyond its buckets, as of sla_position.
CREATE TABLE sla_agent (
    agent_id text  COLLATE "C" PRIMARY KEY,
    state    bytea NOT NULL                         -- JSON: transitions, maintenance, open buckets, breaches under way
);

-- What agents did, in the buckets that were closed by sla_position.
CREATE TABLE sla_bucket (
    tier          bigint NOT NULL,                  -- minute, five minutes, hour, day
    start_ms      bigint NOT NULL,
    agent_id      text   COLLATE "C" NOT NULL,
    registered_ms bigint NOT NULL,
    counts        text   NOT NULL,                  -- JSON
    sla_version   bigint NOT NULL,
    sketch        bytea  NOT NULL,                  -- latencies
    PRIMARY KEY (tier, start_ms, agent_id)
);
CREATE INDEX sla_bucket_agent ON sla_bucket (agent_id, tier, start_ms);

-- Tasks whose end is known, by the hour in which that became so, as of
-- sla_position: eight bytes of a hash each.
CREATE TABLE sla_dedup (
    hour_ms bigint PRIMARY KEY,
    keys    bytea  NOT NULL
);

-- Up to where sla_agent, sla_bucket and sla_dedup know everything.
CREATE TABLE sla_position (
    one       boolean PRIMARY KEY CHECK (one),
    at_ms     bigint NOT NULL,
    input_seq bigint NOT NULL,
    records   bigint NOT NULL                       -- usage records taken
);

-- What became known after that, in order, with the instant at which it did.
CREATE TABLE sla_input (
    seq   bigint PRIMARY KEY,
    at_ms bigint NOT NULL,
    input bytea  NOT NULL                           -- JSON
);

-- One row for each breach, from its opening on.
CREATE TABLE sla_breach (
    id           text    COLLATE "C" PRIMARY KEY,
    agent_id     text    COLLATE "C" NOT NULL,
    objective    text    NOT NULL CHECK (objective IN ('availability', 'latency', 'error_rate')),
    "window"     text    NOT NULL,
    threshold    text    NOT NULL,
    actual_open  text    NOT NULL,
    actual_worst text    NOT NULL,
    actual_last  text    NOT NULL,
    severity     text    NOT NULL CHECK (severity IN ('warning', 'critical')),
    severity_max text    NOT NULL,
    started_ms   bigint  NOT NULL,
    detected_ms  bigint  NOT NULL,
    resolved_ms  bigint,
    close_reason text,
    flaps        bigint  NOT NULL,
    flapping     boolean NOT NULL,
    n            bigint  NOT NULL,
    bad          bigint  NOT NULL,
    wilson       double precision,
    sla_version  bigint  NOT NULL,
    incident_id  text    NOT NULL,
    last_seq     bigint  NOT NULL,                  -- of its last change in sla_notification
    CHECK ((resolved_ms IS NULL) = (close_reason IS NULL))
);
CREATE INDEX sla_breach_started ON sla_breach (started_ms, id);
CREATE INDEX sla_breach_agent   ON sla_breach (agent_id, started_ms, id);
CREATE INDEX sla_breach_open    ON sla_breach (agent_id) WHERE resolved_ms IS NULL;

-- What happened to breaches, in the order of their audit entries: the log that
-- subscribers and sinks read.
CREATE TABLE sla_notification (
    seq       bigint PRIMARY KEY,                   -- of the audit entry
    breach_id text   COLLATE "C" NOT NULL REFERENCES sla_breach (id),
    kind      text   NOT NULL,                      -- firing, escalated, resolved
    at_ms     bigint NOT NULL,
    breach    bytea  NOT NULL                       -- JSON: the breach as it was then
);

-- How far each sink has got, and what it could not get rid of.
CREATE TABLE sla_delivery (
    sink text   COLLATE "C" PRIMARY KEY,
    seq  bigint NOT NULL
);

CREATE TABLE sla_dead_letter (
    sink     text   COLLATE "C" NOT NULL,
    seq      bigint NOT NULL,
    at_ms    bigint NOT NULL,
    attempts bigint NOT NULL,
    error    text   NOT NULL,
    PRIMARY KEY (sink, seq)
);

-- The run that does what only one of all may do: at most one row.
CREATE TABLE leader (
    one      boolean     PRIMARY KEY CHECK (one),
    instance text        NOT NULL,
    until    timestamptz NOT NULL                   -- by the server's clock
) WITH (fillfactor = 50);

-- Runs of nodes, and until when each counts as alive by the server's clock. What
-- the others hold is settled as lost.
CREATE TABLE instances (
    instance text        PRIMARY KEY,
    until    timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Guards. They stop accidents; the hash chain is what detects intent.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % cannot be changed or deleted', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

-- A prune moves the minimum index first, and only what is before it may go.
CREATE FUNCTION refuse_entry_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.seq >= coalesce((SELECT max(min_index) FROM audit_prune), 0) THEN
        RAISE EXCEPTION 'audit entries cannot be deleted' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END $$;

-- A purge moves the retention mark first, and only what is behind it may go.
CREATE FUNCTION refuse_record_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.timestamp_us >= coalesce((SELECT purged_before_us FROM ledger_head), -9223372036854775808) THEN
        RAISE EXCEPTION 'usage records cannot be deleted but by a purge' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END $$;

CREATE FUNCTION refuse_id_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.purged OR (NEW.id, NEW.seq, NEW.timestamp_us, NEW.digest, NEW.entry_seq) IS DISTINCT FROM (OLD.id, OLD.seq, OLD.timestamp_us, OLD.digest, OLD.entry_seq) THEN
        RAISE EXCEPTION 'the key of a usage record cannot be changed' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER audit_entries_no_update BEFORE UPDATE ON audit_entries FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries FOR EACH ROW EXECUTE FUNCTION refuse_entry_delete();
CREATE TRIGGER audit_entries_no_truncate BEFORE TRUNCATE ON audit_entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_checkpoints_no_update BEFORE UPDATE OR DELETE ON audit_checkpoints FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_checkpoints_no_truncate BEFORE TRUNCATE ON audit_checkpoints FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER usage_records_no_update BEFORE UPDATE ON usage_records FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER usage_records_no_delete BEFORE DELETE ON usage_records FOR EACH ROW EXECUTE FUNCTION refuse_record_delete();
CREATE TRIGGER usage_records_no_truncate BEFORE TRUNCATE ON usage_records FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER usage_ids_no_update BEFORE UPDATE ON usage_ids FOR EACH ROW EXECUTE FUNCTION refuse_id_change();
CREATE TRIGGER usage_ids_no_delete BEFORE DELETE ON usage_ids FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER usage_ids_no_truncate BEFORE TRUNCATE ON usage_ids FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER revocations_no_update BEFORE UPDATE OR DELETE ON revocations FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER revocations_no_truncate BEFORE TRUNCATE ON revocations FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
