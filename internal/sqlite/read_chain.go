package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"io/fs"
	"iter"
	"regexp"
	"slices"
	"strings"
	"sync"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// ReadAudit implements auditlog.Store: a connection and a transaction of its
// own, so that a long verification takes no reader away from others.
func (s *Store) ReadAudit(ctx context.Context, f func(auditlog.Snapshot) error) (err error) {
	if s.memory != nil {
		s.memory.RLock()
		defer s.memory.RUnlock()
	}
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
	c.turns = &sync.Mutex{}
	err = f(&snapshot{ctx: ctx, c: c})
	if e := c.script("ROLLBACK"); err == nil && e != nil && !noTransaction(e) {
		err = e
	}
	return s.readError(ctx, err)
}

// snapshot is a read transaction.
type snapshot struct {
	ctx context.Context //nolint:containedctx // it lives as long as the call that made it
	c   *conn
}

// errEnough ends a query whose reader wants no more rows.
var errEnough = errors.New("enough")

// rows turns a query into a sequence of what read makes of each row.
func rows[T any](s *snapshot, sql string, read func(*row) (T, error), args ...driver.Value) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		err := s.c.query(sql, func(r *row) error {
			if err := s.ctx.Err(); err != nil {
				return err
			}
			v, err := read(r)
			if err != nil {
				return err
			}
			if !yield(v, nil) {
				return errEnough
			}
			return nil
		}, args...)
		if err != nil && !errors.Is(err, errEnough) {
			var none T
			yield(none, err)
		}
	}
}

// Stored implements auditlog.Snapshot.
func (s *snapshot) Stored() (out auditlog.Stored, err error) {
	err = s.c.query(`SELECT seq, hash FROM audit_head ORDER BY seq DESC LIMIT 1`, func(r *row) error {
		out.Head = &audit.HeadRow{Size: r.int(0) + 1, Hash: r.hash(1)}
		return nil
	})
	if err != nil {
		return out, err
	}
	last, err := s.c.one(`SELECT max(seq) FROM audit_entries`)
	if err != nil {
		return out, err
	}
	if n, ok := last.(int64); ok {
		out.Rows = n + 1
	}
	if last, err = s.c.one(`SELECT max(position) FROM audit_tree WHERE level = ?`, int64(audit.NodeSpan)); err != nil {
		return out, err
	}
	if n, ok := last.(int64); ok {
		out.Nodes = n + 1
	}
	err = s.c.query(`SELECT min_index, head_hash, compact_range, checkpoint_size, at_us FROM audit_prune ORDER BY min_index DESC LIMIT 1`, func(r *row) error {
		p := &audit.Prune{MinIndex: r.int(0), HeadHash: r.hash(1), CheckpointSize: r.int(3), AtUS: r.int(4)}
		for b := range slices.Chunk(r.blob(2), len(audit.Hash{})) {
			var h audit.Hash
			copy(h[:], b)
			p.CompactRange = append(p.CompactRange, h)
		}
		out.Prune = p
		return nil
	})
	if err != nil {
		return out, err
	}
	out.GuardsMissing, err = s.guardsMissing()
	return out, err
}

// createTrigger finds the triggers in a migration.
var createTrigger = regexp.MustCompile(`(?s)CREATE TRIGGER (\w+).*?\nBEGIN .*?END`)

// guards are the triggers that the migrations leave behind, by name.
func guards() (map[string]string, error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, name := range files {
		text, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for _, found := range createTrigger.FindAllStringSubmatch(string(text), -1) {
			all[found[1]] = found[0]
		}
	}
	return all, nil
}

// guardsMissing names triggers that are gone, or that do something else now.
func (s *snapshot) guardsMissing() ([]string, error) {
	want, err := guards()
	if err != nil {
		return nil, err
	}
	err = s.c.query(`SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'`, func(r *row) error {
		if strings.TrimSpace(want[r.text(0)]) == strings.TrimSpace(r.text(1)) {
			delete(want, r.text(0))
		}
		return nil
	})
	missing := make([]string, 0, len(want))
	for name := range want {
		missing = append(missing, name)
	}
	slices.Sort(missing)
	return missing, err
}

// Hashes implements auditlog.Snapshot.
func (s *snapshot) Hashes(from, to int64) iter.Seq2[[32]byte, error] {
	return rows(s, `SELECT hash FROM audit_entries WHERE seq >= ? AND seq < ? ORDER BY seq`,
		func(r *row) ([32]byte, error) { return r.hash(0), nil }, from, to)
}

// Nodes implements auditlog.Snapshot.
func (s *snapshot) Nodes(level int, from, to int64) iter.Seq2[audit.TreeNode, error] {
	return rows(s, `SELECT position, hash FROM audit_tree WHERE level = ? AND position >= ? AND position < ? ORDER BY position`,
		func(r *row) (audit.TreeNode, error) {
			return audit.TreeNode{Level: level, Position: r.int(0), Hash: r.hash(1)}, nil
		}, int64(level), from, to)
}

// Checkpoints implements auditlog.Snapshot.
func (s *snapshot) Checkpoints(from, to int64) iter.Seq2[audit.CheckpointRow, error] {
	return rows(s, `SELECT size, root, note FROM audit_checkpoints WHERE size >= ? AND size <= ? ORDER BY size, rowid`,
		func(r *row) (audit.CheckpointRow, error) {
			return audit.CheckpointRow{Size: r.int(0), Root: r.hash(1), Note: []byte(r.text(2))}, nil
		}, from, to)
}

// Newest implements auditlog.Snapshot.
func (s *snapshot) Newest(atMost int64) (last audit.CheckpointRow, found bool, err error) {
	err = s.c.query(`SELECT size, root, note FROM audit_checkpoints WHERE size <= ? ORDER BY size DESC, rowid DESC LIMIT 1`, func(r *row) error {
		last, found = audit.CheckpointRow{Size: r.int(0), Root: r.hash(1), Note: []byte(r.text(2))}, true
		return nil
	}, atMost)
	return last, found, err
}

// Books implements auditlog.Snapshot.
func (s *snapshot) Books() auditlog.Books { return books{s} }

// books reads the tables that the log describes.
type books struct{ *snapshot }

func (b books) Tasks() iter.Seq2[auditlog.Task, error] {
	return rows(b.snapshot, `SELECT seq, task_id, consumer, agent, state, coalesce(end_seq, -1), coalesce(record_id, ''), charged_nano_usd FROM tasks ORDER BY seq`,
		func(r *row) (auditlog.Task, error) {
			return auditlog.Task{Seq: r.int(0), ID: asap.TaskID(r.text(1)), Consumer: asap.AgentURN(r.text(2)), Agent: asap.AgentURN(r.text(3)),
				State: ledger.TaskState(r.int(4)), EndSeq: r.int(5), RecordID: r.text(6), Charged: r.money(7)}, nil
		})
}

// Records implements auditlog.Books: sequences grow with the entries.
func (b books) Records() iter.Seq2[auditlog.Record, error] {
	return rows(b.snapshot, `SELECT seq, id, entry_seq, octets, timestamp_us, agent, consumer, task_id, skill, outcome, coalesce(delegation, ''), coalesce(ref, '')
		FROM usage_records ORDER BY seq`,
		func(r *row) (auditlog.Record, error) {
			return auditlog.Record{Sequence: r.int(0), ID: r.text(1), EntrySeq: r.int(2), Octets: r.blob(3), Index: auditlog.RecordIndex{
				TimestampUS: r.int(4), Agent: r.text(5), Consumer: r.text(6), TaskID: r.text(7), Skill: r.text(8), Outcome: r.text(9),
				Delegation: r.text(10), Ref: r.text(11)}}, nil
		})
}

func (b books) Purged(id string) (bool, error) {
	found, err := b.c.one(`SELECT 1 FROM purged_records WHERE id = ?`, id)
	return found != nil, err
}

func (b books) PurgedBefore(seq int64) (bool, error) {
	found, err := b.c.one(`SELECT 1 FROM purged_records WHERE entry_seq < ? LIMIT 1`, seq)
	return found != nil, err
}

func (b books) Indexed(urn string, block int64) (bool, error) {
	found, err := b.c.one(`SELECT 1 FROM audit_blocks WHERE urn = ? AND block = ?`, urn, block)
	return found != nil, err
}

func (b books) Issued(key ledger.BudgetKey) (bool, error) {
	found, err := b.c.one(`SELECT 1 FROM delegations WHERE issuer = ? AND token_id = ? AND signed = 1`, string(key.Issuer), key.TokenID)
	return found != nil, err
}

func (b books) Revoked(key ledger.BudgetKey) (int64, error) {
	seq, err := b.c.one(`SELECT entry_seq FROM revocations WHERE issuer = ? AND token_id = ?`, string(key.Issuer), key.TokenID)
	if n, ok := seq.(int64); ok {
		return n, err
	}
	return -1, err
}

func (b books) Delegations(from int64) (issued, revoked int64, err error) {
	err = b.c.query(`SELECT (SELECT count(*) FROM delegations WHERE signed = 1), (SELECT count(*) FROM revocations WHERE entry_seq >= ?)`, func(r *row) error {
		issued, revoked = r.int(0), r.int(1)
		return nil
	}, from)
	return issued, revoked, err
}

func (b books) Budgets() iter.Seq2[ledger.Budget, error] {
	return rows(b.snapshot, `SELECT issuer, token_id, limit_tasks, limit_nano_usd, used_tasks, held_tasks, used_nano_usd, held_nano_usd, overrun_nano_usd FROM budgets`,
		func(r *row) (ledger.Budget, error) {
			v := ledger.Budget{Link: ledger.Link{Issuer: asap.AgentURN(r.text(0)), TokenID: r.text(1), LimitNanoUSD: r.money(3)},
				UsedTasks: r.int(4), HeldTasks: r.int(5), UsedNanoUSD: metering.NanoUSD(r.int(6)), HeldNanoUSD: metering.NanoUSD(r.int(7)),
				OverrunNanoUSD: metering.NanoUSD(r.int(8))}
			if !r.null(2) {
				v.LimitTasks = new(r.int(2))
			}
			return v, nil
		})
}

func (b books) Rollups() iter.Seq2[ledger.Rollup, error] {
	return rows(b.snapshot, `SELECT span, start_us, delegation, agent, consumer, outcome, skill, `+sumColumns+` FROM usage_rollups`,
		func(r *row) (ledger.Rollup, error) {
			return ledger.Rollup{Key: ledger.RollupKey{Span: ledger.Span(r.int(0)), StartUS: r.int(1), Delegation: r.text(2), Agent: asap.AgentURN(r.text(3)),
				Consumer: asap.AgentURN(r.text(4)), Outcome: metering.Outcome(r.text(5)), Skill: r.text(6)}, Sums: r.sums(7)}, nil
		})
}

var _ auditlog.Store = (*Store)(nil)
