package postgres

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// ReadAudit implements auditlog.Store: a connection and a transaction of its
// own, so that a long verification takes no reader away from others.
func (s *Store) ReadAudit(ctx context.Context, f func(auditlog.Snapshot) error) (err error) {
	c, err := s.connect(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return s.readError(ctx, err)
	}
	defer func() { err = errors.Join(err, c.Close(context.WithoutCancel(ctx))) }()
	// A verification takes as long as it takes, and thinks between its queries.
	if _, err := c.Exec(ctx, `SELECT set_config('idle_in_transaction_session_timeout', '0', false)`); err != nil {
		return s.readError(ctx, err)
	}
	err = pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(q pgx.Tx) error {
		return f(&snapshot{ctx: ctx, q: q})
	})
	return s.readError(ctx, err)
}

// snapshot is a read transaction. Its sequences are read page by page, so that
// several of them can be open at once.
type snapshot struct {
	ctx context.Context //nolint:containedctx // it lives as long as the call that made it
	q   pgx.Tx
}

// snapshotPage is how many rows of a sequence are in memory.
const snapshotPage = 1000

// pages turns a query into a sequence of what read makes of each row. The query
// takes as its arguments what next makes of the last row of the page before (nil
// at first), and a limit.
func pages[T any](s *snapshot, sql string, read func(*row) (T, error), next func(last *T) []any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		page := make([]T, 0, snapshotPage)
		for args := next(nil); ; args = next(&page[len(page)-1]) {
			page = page[:0]
			err := query(s.ctx, s.q, sql, func(r *row) error {
				v, err := read(r)
				page = append(page, v)
				return err
			}, append(args, snapshotPage)...)
			if err != nil {
				yield(none, err)
				return
			}
			for i := range page {
				if !yield(page[i], nil) {
					return
				}
			}
			if len(page) < snapshotPage {
				return
			}
		}
	}
}

// one runs a query of at most one row.
func (s *snapshot) one(sql string, each func(*row), args ...any) error {
	return query(s.ctx, s.q, sql, func(r *row) error { each(r); return nil }, args...)
}

// exists tells whether a query has a row.
func (s *snapshot) exists(sql string, args ...any) (found bool, err error) {
	err = s.one(sql, func(*row) { found = true }, args...)
	return found, err
}

// Stored implements auditlog.Snapshot.
func (s *snapshot) Stored() (out auditlog.Stored, err error) {
	err = s.one(`SELECT seq, hash FROM ledger_head WHERE seq >= 0`, func(r *row) {
		out.Head = &audit.HeadRow{Size: r.int(0) + 1, Hash: r.hash(1)}
	})
	if err != nil {
		return out, err
	}
	if err = s.one(`SELECT coalesce(max(seq) + 1, 0) FROM audit_entries`, func(r *row) { out.Rows = r.int(0) }); err != nil {
		return out, err
	}
	if err = s.one(`SELECT coalesce(max(position) + 1, 0) FROM audit_tree WHERE level = $1`, func(r *row) { out.Nodes = r.int(0) }, audit.NodeSpan); err != nil {
		return out, err
	}
	err = s.one(`SELECT min_index, head_hash, compact_range, checkpoint_size, at_us FROM audit_prune ORDER BY min_index DESC LIMIT 1`, func(r *row) {
		p := &audit.Prune{MinIndex: r.int(0), HeadHash: r.hash(1), CheckpointSize: r.int(3), AtUS: r.int(4)}
		for b := range slices.Chunk(r.blob(2), len(audit.Hash{})) {
			var h audit.Hash
			copy(h[:], b)
			p.CompactRange = append(p.CompactRange, h)
		}
		out.Prune = p
	})
	if err != nil {
		return out, err
	}
	out.GuardsMissing, err = s.guardsMissing()
	return out, err
}

var (
	// createTrigger finds the triggers in a migration: name, table, function.
	createTrigger = regexp.MustCompile(`CREATE TRIGGER (\w+) BEFORE [A-Z ]+ ON (\w+) FOR EACH \w+ EXECUTE FUNCTION (\w+)\(\);`)
	// createFunction finds their functions: name, body.
	createFunction = regexp.MustCompile(`(?s)CREATE (?:OR REPLACE )?FUNCTION (\w+)\(\) RETURNS trigger LANGUAGE plpgsql AS \$\$(.*?)\$\$;`)
)

// guards are the triggers that the migrations leave behind: table and body of
// the function of each, by name.
func guards() (map[string][2]string, error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	all, bodies := map[string][2]string{}, map[string]string{}
	for _, name := range files {
		text, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for _, f := range createFunction.FindAllStringSubmatch(string(text), -1) {
			bodies[f[1]] = f[2]
		}
		for _, t := range createTrigger.FindAllStringSubmatch(string(text), -1) {
			all[t[1]] = [2]string{t[2], t[3]}
		}
	}
	for name, g := range all {
		all[name] = [2]string{g[0], bodies[g[1]]}
	}
	return all, nil
}

// guardsMissing names triggers that are gone or switched off, on a table or on
// one of its partitions, or that do something else now.
func (s *snapshot) guardsMissing() ([]string, error) {
	want, err := guards()
	if err != nil {
		return nil, err
	}
	off := map[string]bool{}
	err = query(s.ctx, s.q, `SELECT t.tgname::text, coalesce(p.parent, c.relname::text), t.tgenabled::text, f.prosrc
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc f ON f.oid = t.tgfoid LEFT JOIN partitions p ON p.name = c.relname
		WHERE c.relnamespace = current_schema()::regnamespace AND NOT t.tgisinternal OR t.tgparentid <> 0`, func(r *row) error {
		name := r.text(0)
		g, ours := want[name]
		if ours && (g[0] != r.text(1) || g[1] != r.text(3) || r.text(2) != "O" && r.text(2) != "A") {
			off[name] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Row triggers are on every partition too, by name.
	for name, g := range want {
		var there, expected int64
		err := s.one(`SELECT (SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE t.tgname = $1
				AND c.relnamespace = current_schema()::regnamespace),
			1 + (SELECT count(*) FROM partitions WHERE parent = $2 AND (SELECT bool_or(t.tgtype & 1 = 1) FROM pg_trigger t WHERE t.tgname = $1))`,
			func(r *row) { there, expected = r.int(0), r.int(1) }, name, g[0])
		if err != nil {
			return nil, err
		}
		if there < expected {
			off[name] = true
		}
	}
	missing := make([]string, 0, len(off))
	for name := range off {
		missing = append(missing, name)
	}
	slices.Sort(missing)
	return missing, nil
}

// Entries implements auditlog.Snapshot.
func (s *snapshot) Entries(from, to int64) iter.Seq2[audit.Row, error] {
	return pages(s, `SELECT seq, octets, hash, id, timestamp_us, event_type, actor, subject FROM audit_entries WHERE seq >= $1 AND seq < $2 ORDER BY seq LIMIT $3`,
		func(r *row) (audit.Row, error) {
			return audit.Row{Seq: r.int(0), Octets: r.blob(1), Hash: r.blob(2), Columns: &audit.Columns{ID: r.text(3), TimestampUS: r.int(4),
				EventType: r.text(5), Actor: r.text(6), Subject: r.text(7)}}, nil
		}, func(last *audit.Row) []any {
			if last != nil {
				from = last.Seq + 1
			}
			return []any{from, to}
		})
}

// Hashes implements auditlog.Snapshot.
func (s *snapshot) Hashes(from, to int64) iter.Seq2[[32]byte, error] {
	type numbered struct {
		seq  int64
		hash [32]byte
	}
	all := pages(s, `SELECT seq, hash FROM audit_entries WHERE seq >= $1 AND seq < $2 ORDER BY seq LIMIT $3`,
		func(r *row) (numbered, error) { return numbered{r.int(0), r.hash(1)}, nil }, func(last *numbered) []any {
			if last != nil {
				from = last.seq + 1
			}
			return []any{from, to}
		})
	return func(yield func([32]byte, error) bool) {
		for v, err := range all {
			if !yield(v.hash, err) {
				return
			}
		}
	}
}

// Nodes implements auditlog.Snapshot.
func (s *snapshot) Nodes(level int, from, to int64) iter.Seq2[audit.TreeNode, error] {
	return pages(s, `SELECT position, hash FROM audit_tree WHERE level = $1 AND position >= $2 AND position < $3 ORDER BY position LIMIT $4`,
		func(r *row) (audit.TreeNode, error) {
			return audit.TreeNode{Level: level, Position: r.int(0), Hash: r.hash(1)}, nil
		}, func(last *audit.TreeNode) []any {
			if last != nil {
				from = last.Position + 1
			}
			return []any{level, from, to}
		})
}

// Checkpoints implements auditlog.Snapshot.
func (s *snapshot) Checkpoints(from, to int64) iter.Seq2[audit.CheckpointRow, error] {
	type numbered struct {
		number int64
		row    audit.CheckpointRow
	}
	after := int64(-1)
	all := pages(s, `SELECT size, root, note, number FROM audit_checkpoints WHERE (size, number) > ($1, $2) AND size <= $3 ORDER BY size, number LIMIT $4`,
		func(r *row) (numbered, error) {
			return numbered{r.int(3), audit.CheckpointRow{Size: r.int(0), Root: r.hash(1), Note: r.blob(2)}}, nil
		}, func(last *numbered) []any {
			if last == nil {
				return []any{from, after, to}
			}
			return []any{last.row.Size, last.number, to}
		})
	return func(yield func(audit.CheckpointRow, error) bool) {
		for v, err := range all {
			if !yield(v.row, err) {
				return
			}
		}
	}
}

// Newest implements auditlog.Snapshot.
func (s *snapshot) Newest(atMost int64) (last audit.CheckpointRow, found bool, err error) {
	err = s.one(`SELECT size, root, note FROM audit_checkpoints WHERE size <= $1 ORDER BY size DESC, number DESC LIMIT 1`, func(r *row) {
		last, found = audit.CheckpointRow{Size: r.int(0), Root: r.hash(1), Note: r.blob(2)}, true
	}, atMost)
	return last, found, err
}

// Books implements auditlog.Snapshot.
func (s *snapshot) Books() auditlog.Books { return books{s} }

// books reads the tables that the log describes.
type books struct{ *snapshot }

func (b books) Tasks() iter.Seq2[auditlog.Task, error] {
	return pages(b.snapshot, `SELECT t.seq, t.task_id, t.consumer, t.agent, d.state, coalesce(d.end_seq, -1), d.record_id, d.charged_nano_usd
		FROM tasks t LEFT JOIN task_ends d ON d.task_seq = t.seq WHERE t.seq > $1 ORDER BY t.seq LIMIT $2`, func(r *row) (auditlog.Task, error) {
		return auditlog.Task{Seq: r.int(0), ID: asap.TaskID(r.text(1)), Consumer: asap.AgentURN(r.text(2)), Agent: asap.AgentURN(r.text(3)),
			State: ledger.TaskState(r.int(4)), EndSeq: r.int(5), RecordID: r.text(6), Charged: r.money(7)}, nil
	}, func(last *auditlog.Task) []any {
		if last == nil {
			return []any{int64(-1)}
		}
		return []any{last.Seq}
	})
}

// Records implements auditlog.Books: sequences grow with the entries.
func (b books) Records() iter.Seq2[auditlog.Record, error] {
	return pages(b.snapshot, `SELECT seq, id, entry_seq, octets, timestamp_us, agent, consumer, task_id, skill, outcome, delegation, ref
		FROM usage_records WHERE seq > $1 ORDER BY seq LIMIT $2`, func(r *row) (auditlog.Record, error) {
		return auditlog.Record{Sequence: r.int(0), ID: r.text(1), EntrySeq: r.int(2), Octets: r.blob(3), Index: auditlog.RecordIndex{
			TimestampUS: r.int(4), Agent: r.text(5), Consumer: r.text(6), TaskID: r.text(7), Skill: r.text(8), Outcome: r.text(9),
			Delegation: r.text(10), Ref: r.text(11)}}, nil
	}, func(last *auditlog.Record) []any {
		if last == nil {
			return []any{int64(-1)}
		}
		return []any{last.Sequence}
	})
}

func (b books) Purged(id string) (bool, error) {
	return b.exists(`SELECT 1 FROM usage_ids WHERE id = $1 AND purged`, id)
}

func (b books) PurgedBefore(seq int64) (bool, error) {
	return b.exists(`SELECT 1 FROM usage_ids WHERE purged AND entry_seq < $1 LIMIT 1`, seq)
}

func (b books) Indexed(urn string, block int64) (bool, error) {
	return b.exists(`SELECT 1 FROM audit_blocks WHERE urn = $1 AND block = $2`, urn, block)
}

func (b books) Issued(key ledger.BudgetKey) (bool, error) {
	return b.exists(`SELECT 1 FROM delegations WHERE issuer = $1 AND token_id = $2 AND signed`, string(key.Issuer), key.TokenID)
}

func (b books) Revoked(key ledger.BudgetKey) (int64, error) {
	seq := int64(-1)
	err := b.one(`SELECT entry_seq FROM revocations WHERE issuer = $1 AND token_id = $2`, func(r *row) { seq = r.int(0) }, string(key.Issuer), key.TokenID)
	return seq, err
}

func (b books) Delegations(from int64) (issued, revoked int64, err error) {
	err = b.one(`SELECT (SELECT count(*) FROM delegations WHERE signed), (SELECT count(*) FROM revocations WHERE entry_seq >= $1)`, func(r *row) {
		issued, revoked = r.int(0), r.int(1)
	}, from)
	return issued, revoked, err
}

func (b books) Budgets() iter.Seq2[ledger.Budget, error] {
	return pages(b.snapshot, `SELECT `+budgetColumns+` FROM budgets b WHERE (b.issuer, b.token_id) > ($1, $2) ORDER BY b.issuer, b.token_id LIMIT $3`,
		func(r *row) (ledger.Budget, error) { return readBudget(r), nil }, func(last *ledger.Budget) []any {
			if last == nil {
				return []any{"", ""}
			}
			return []any{string(last.Issuer), last.TokenID}
		})
}

func (b books) Rollups() iter.Seq2[ledger.Rollup, error] {
	return pages(b.snapshot, `SELECT `+cellColumns+`, `+sumColumns+` FROM usage_rollups
		WHERE (span, delegation, start_us, agent, consumer, outcome, skill) > ($1, $2, $3, $4, $5, $6, $7)
		ORDER BY span, delegation, start_us, agent, consumer, outcome, skill LIMIT $8`,
		func(r *row) (ledger.Rollup, error) { return readRollup(r), nil }, func(last *ledger.Rollup) []any {
			if last == nil {
				return []any{int16(-1), "", int64(0), "", "", "", ""}
			}
			k := &last.Key
			return []any{int16(k.Span), k.Delegation, k.StartUS, string(k.Agent), string(k.Consumer), string(k.Outcome), k.Skill} //nolint:gosec // a span is 0, 1 or 2
		})
}

var _ auditlog.Store = (*Store)(nil)
