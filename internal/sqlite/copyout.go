package sqlite

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// copied is what a store holds in the shape of [ledger.CopyTable]: the order in
// which tables can be filled, each by its key.
var copied = [...]struct {
	name, columns string
	from          string // what comes after SELECT columns; the columns are names or expressions AS names
	key           string // columns by which rows are ordered
	source        string // tables it stands for, besides name
}{
	{"ledger_head", "(SELECT seq FROM audit_head) AS seq, (SELECT hash FROM audit_head) AS hash, records, purged, purged_before_us", "ledger_counters", "", "ledger_counters audit_head"},
	{"tasks", `seq, task_id, consumer, envelope_id, digest, agent, verified, skill, parent_task, trace_id,
		(SELECT json_group_array(json_array(issuer, token_id)) FROM (SELECT issuer, token_id FROM task_links l WHERE l.task_seq = tasks.seq ORDER BY l.link)
			HAVING count(*) > 0) AS links, ceiling_nano_usd, started_us, expires_us`, "tasks", "seq", "task_links"},
	{"holds", "seq AS task_seq, started_us, expires_us, coalesce(instance, '') AS instance", "tasks WHERE state = 0", "task_seq", "tasks"},
	{"task_ends", "seq AS task_seq, state, ended_us, end_seq, record_id, settlement, failure, charged_nano_usd", "tasks WHERE state > 0", "task_seq", "tasks"},
	{"answers", "task_seq, ended_us, answer", "answers", "task_seq", ""},
	{"budgets", "issuer, token_id, limit_tasks, limit_nano_usd, used_tasks, held_tasks, used_nano_usd, held_nano_usd, overrun_nano_usd", "budgets", "issuer, token_id", ""},
	{"usage_records", "timestamp_us, seq, id, entry_seq, agent, consumer, task_id, skill, outcome, delegation, ref, task_seq, octets", "usage_records", "timestamp_us, seq", ""},
	{"usage_ids", "id, seq, timestamp_us, digest, entry_seq, purged, task_id",
		`(SELECT id, seq, timestamp_us, digest, entry_seq, 0 AS purged, NULL AS task_id FROM usage_records
			UNION ALL SELECT id, 0, 0, digest, entry_seq, 1, task_id FROM purged_records)`, "id", "purged_records"},
	{"usage_rollups", "span, start_us, delegation, agent, consumer, outcome, skill, " + sumColumns,
		"usage_rollups", "span, delegation, start_us, agent, consumer, outcome, skill", ""},
	{"price_lists", "hash, agent, canonical, at_us", "price_lists", "hash", ""},
	{"audit_entries", "seq, id, timestamp_us, event_type, actor, subject, octets, hash", "audit_entries", "seq", ""},
	{"audit_blocks", "urn, block", "audit_blocks", "urn, block", ""},
	{"audit_checkpoints", "size, root, note", "audit_checkpoints", "size", ""},
	{"audit_tree", "level, position, hash", "audit_tree", "level, position", ""},
	{"audit_prune", "min_index, head_hash, compact_range, checkpoint_size, at_us", "audit_prune", "min_index", ""},
	{"delegations", "seq, issuer, token_id, delegate, above, scopes, resources, limit_tasks, limit_nano_usd, max_depth, bound_key, issued_us, expires_us, signed, seen_us",
		"delegations", "seq", ""},
	{"revocations", "issuer, token_id, at_us, actor, reason, entry_seq", "revocations", "issuer, token_id", ""},
	{"limit_warnings", "issuer, token_id, unit, percent, seq, at_us, of_limit, used", "limit_warnings", "issuer, token_id, unit, percent", ""},
	{"registry_agents", "agent, entry_seq, source, version, content, document, registered_us, updated_us", "registry_agents", "agent", ""},
	{"registry_keys", "agent, position, public_key, added_us", "registry_keys", "agent, position", ""},
	{"sla_agent", "agent_id, state", "sla_agent", "agent_id", ""},
	{"sla_bucket", "tier, start_ms, agent_id, registered_ms, counts, sla_version, sketch", "sla_bucket", "tier, start_ms, agent_id", ""},
	{"sla_dedup", "hour_ms, keys", "sla_dedup", "hour_ms", ""},
	{"sla_position", "one, at_ms, input_seq, records", "sla_position", "", ""},
	{"sla_input", "seq, at_ms, input", "sla_input", "seq", ""},
	{"sla_breach", `id, agent_id, objective, window, threshold, actual_open, actual_worst, actual_last, severity, severity_max, started_ms, detected_ms, resolved_ms,
		close_reason, flaps, flapping, n, bad, wilson, sla_version, incident_id, last_seq`, "sla_breach", "id", ""},
	{"sla_notification", "seq, breach_id, kind, at_ms, breach", "sla_notification", "seq", ""},
	{"sla_delivery", "sink, seq", "sla_delivery", "sink", ""},
	{"sla_dead_letter", "sink, seq, at_ms, attempts, error", "sla_dead_letter", "sink, seq", ""},
}

// CopyOut hands over everything the store holds, table after table, in one
// consistent state and constant memory. A table that it does not know is an
// error: nothing is left behind unseen.
func (s *Store) CopyOut(ctx context.Context, f func(ledger.CopyTable) error) (err error) {
	c, err := openConn(s.dsn)
	if err != nil {
		return explain(s.path, err)
	}
	defer func() {
		if e := c.close(); err == nil && e != nil {
			err = explain(s.path, e)
		}
	}()
	if err := c.script("BEGIN"); err != nil {
		return explain(s.path, err)
	}
	snap := &snapshot{ctx: ctx, c: c}
	if err := snap.allKnown(); err != nil {
		return err
	}
	for _, t := range copied {
		columns := columnNames(t.columns)
		query := `SELECT ` + t.columns + ` FROM ` + t.from
		switch {
		case t.name == "audit_checkpoints": // several may have one size
			query += ` ORDER BY size, rowid`
		case t.key != "":
			query += ` ORDER BY ` + t.key
		}
		table := ledger.CopyTable{Name: t.name, Columns: columns, Key: t.key, Rows: func() iter.Seq2[[]any, error] {
			values := make([]any, len(columns))
			return rows(snap, query, func(r *row) ([]any, error) {
				for i := range values {
					values[i] = r.values[i]
					if b, ok := values[i].([]byte); ok && b == nil {
						values[i] = []byte{} // the driver's empty blob, which others take for null
					}
				}
				return values, nil
			})
		}()}
		if err := f(table); err != nil {
			return s.readError(ctx, fmt.Errorf("copy %s: %w", t.name, err))
		}
	}
	return nil
}

// allKnown finds tables that would not be copied.
func (s *snapshot) allKnown() error {
	known := []string{"schema_migrations"}
	for _, t := range copied {
		known = append(append(known, t.name), strings.Fields(t.source)...)
	}
	return s.c.query(`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`, func(r *row) error {
		if !slices.Contains(known, r.text(0)) {
			return fmt.Errorf("table %s is not one that can be copied", r.text(0))
		}
		return nil
	})
}

// columnNames are the names of the columns of a SELECT: what follows AS, or the
// column itself. Commas inside parentheses separate nothing.
func columnNames(list string) (names []string) {
	depth, from := 0, 0
	add := func(text string) {
		words := strings.Fields(text)
		names = append(names, words[len(words)-1])
	}
	for i, c := range list {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			add(list[from:i])
			from = i + 1
		}
	}
	add(list[from:])
	return names
}
