-- What agents delivered and which promises they broke.
-- Times are milliseconds since 1970 UTC, as the rules count.

-- What is known of each agent beyond its buckets, as of sla_position.
CREATE TABLE sla_agent (
    agent_id      TEXT    NOT NULL PRIMARY KEY,
    registered_ms INTEGER NOT NULL,
    removed_ms    INTEGER,
    sla_json      TEXT    NOT NULL,
    state         BLOB    NOT NULL                  -- JSON: transitions, maintenance, open buckets, breaches under way
) STRICT, WITHOUT ROWID;

-- What agents did, in the buckets that were closed by sla_position.
CREATE TABLE sla_bucket (
    tier          INTEGER NOT NULL,                 -- minute, five minutes, hour, day
    start_ms      INTEGER NOT NULL,
    agent_id      TEXT    NOT NULL,
    registered_ms INTEGER NOT NULL,
    counts        TEXT    NOT NULL,                 -- JSON
    sla_version   INTEGER NOT NULL,
    sketch        BLOB    NOT NULL,                 -- latencies
    PRIMARY KEY (tier, start_ms, agent_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX sla_bucket_agent ON sla_bucket (agent_id, tier, start_ms);

-- Tasks whose end is known, by the hour in which that became so, as of
-- sla_position: eight bytes of a hash each.
CREATE TABLE sla_dedup (
    hour_ms INTEGER PRIMARY KEY,
    keys    BLOB    NOT NULL
) STRICT;

-- Up to where sla_agent, sla_bucket and sla_dedup know everything.
CREATE TABLE sla_position (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    at_ms     INTEGER NOT NULL,
    input_seq INTEGER NOT NULL,
    records   INTEGER NOT NULL                      -- usage records taken
) STRICT;

-- What became known after that, in order, with the instant at which it did.
CREATE TABLE sla_input (
    seq    INTEGER PRIMARY KEY,
    at_ms  INTEGER NOT NULL,
    input  BLOB    NOT NULL                         -- JSON
) STRICT;

-- One row for each breach, from its opening on.
CREATE TABLE sla_breach (
    id            TEXT    NOT NULL PRIMARY KEY,
    agent_id      TEXT    NOT NULL,
    objective     TEXT    NOT NULL CHECK (objective IN ('availability', 'latency', 'error_rate')),
    window        TEXT    NOT NULL,
    threshold     TEXT    NOT NULL,
    actual_open   TEXT    NOT NULL,
    actual_worst  TEXT    NOT NULL,
    actual_last   TEXT    NOT NULL,
    severity      TEXT    NOT NULL CHECK (severity IN ('warning', 'critical')),
    severity_max  TEXT    NOT NULL,
    started_ms    INTEGER NOT NULL,
    detected_ms   INTEGER NOT NULL,
    resolved_ms   INTEGER,
    close_reason  TEXT,
    flaps         INTEGER NOT NULL,
    flapping      INTEGER NOT NULL,
    n             INTEGER NOT NULL,
    bad           INTEGER NOT NULL,
    wilson        REAL,
    sla_version   INTEGER NOT NULL,
    incident_id   TEXT    NOT NULL,
    last_seq      INTEGER NOT NULL,                 -- of its last change in sla_notification
    CHECK ((resolved_ms IS NULL) = (close_reason IS NULL))
) STRICT;

CREATE INDEX sla_breach_started ON sla_breach (started_ms, id);
CREATE INDEX sla_breach_agent ON sla_breach (agent_id, started_ms, id);
CREATE INDEX sla_breach_open ON sla_breach (agent_id) WHERE resolved_ms IS NULL;

-- What happened to breaches, in the order of their audit entries: the log that
-- subscribers and sinks read.
CREATE TABLE sla_notification (
    seq       INTEGER PRIMARY KEY,                  -- of the audit entry
    breach_id TEXT    NOT NULL REFERENCES sla_breach (id),
    kind      TEXT    NOT NULL,                     -- firing, escalated, resolved
    at_ms     INTEGER NOT NULL,
    breach    BLOB    NOT NULL                      -- JSON: the breach as it was then
) STRICT;

-- How far each sink has got, and what it could not get rid of.
CREATE TABLE sla_delivery (
    sink TEXT    NOT NULL PRIMARY KEY,
    seq  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sla_dead_letter (
    sink     TEXT    NOT NULL,
    seq      INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    error    TEXT    NOT NULL,
    PRIMARY KEY (sink, seq)
) STRICT, WITHOUT ROWID;
