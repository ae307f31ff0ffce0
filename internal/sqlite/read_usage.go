package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// ErrPurged reports a question about single records of a time whose records
// were purged. It is metering.ErrPurged.
var ErrPurged = metering.ErrPurged

// exportPage is how many records an export holds in memory.
const exportPage = 500

// read runs f on one consistent state. f must not keep the transaction.
func (s *Store) read(ctx context.Context, f func(q *sql.Tx) error) error {
	if s.memory != nil {
		s.memory.RLock()
		defer s.memory.RUnlock()
	}
	q, err := s.readers.BeginTx(ctx, nil)
	if err != nil {
		return s.readError(ctx, err)
	}
	err = f(q)
	if e := q.Rollback(); err == nil && e != nil && !errors.Is(e, sql.ErrTxDone) {
		err = e
	}
	return s.readError(ctx, err)
}

func (s *Store) readError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case strings.Contains(err.Error(), "integer overflow"):
		return fmt.Errorf("%w: %w", metering.ErrOverflow, err)
	case code(err) != 0:
		return explain(s.path, err)
	default:
		return err
	}
}

// clauses is the WHERE of a query and its arguments.
type clauses struct {
	terms []string
	args  []any
}

func (c *clauses) add(term string, args ...any) {
	c.terms, c.args = append(c.terms, term), append(c.args, args...)
}

func (c *clauses) where() string {
	if len(c.terms) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.terms, " AND ")
}

// retention is the retention mark, behind which records count as gone even if
// their rows are still being removed.
const retention = `SELECT records, purged, coalesce(purged_before_us, -9223372036854775808) FROM ledger_counters`

type mark struct{ records, purged, beforeUS int64 }

func readMark(ctx context.Context, q *sql.Tx) (m mark, err error) {
	return m, q.QueryRowContext(ctx, retention).Scan(&m.records, &m.purged, &m.beforeUS)
}

// selection turns a filter into clauses over usage_records. Party is not in it.
func selection(f *metering.Filter, m mark) clauses {
	var c clauses
	text := func(column, value string) {
		if value != "" {
			c.add(column+" = ?", value)
		}
	}
	text("agent", string(f.Agent))
	text("consumer", string(f.Consumer))
	if f.TaskID != "" { // what was settled here, and what was reported
		c.add(`usage_records.seq IN (SELECT u.seq FROM tasks t JOIN usage_records u ON u.id = t.record_id WHERE t.task_id = ?
			UNION SELECT seq FROM usage_records WHERE task_seq IS NULL AND task_id = ?)`, string(f.TaskID), string(f.TaskID))
	}
	text("skill", f.Skill)
	text("outcome", string(f.Outcome))
	text("delegation", f.Delegation)
	from := m.beforeUS
	if !f.Start.IsZero() {
		from = max(from, ledger.CeilUS(f.Start))
	}
	if from != math.MinInt64 {
		c.add("timestamp_us >= ?", from)
	}
	if !f.End.IsZero() {
		c.add("timestamp_us < ?", ledger.CeilUS(f.End))
	}
	return c
}

// ListUsage returns a page of the selected records in ascending (Timestamp,
// Sequence).
func (s *Store) ListUsage(ctx context.Context, f metering.Filter, page metering.Page) (records []metering.Record, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		m, err := readMark(ctx, q)
		if err != nil {
			return err
		}
		records, err = listUsage(ctx, q, &f, page, m, math.MaxInt64)
		return err
	})
	return records, err
}

// listUsage lists records up to a sequence.
func listUsage(ctx context.Context, q *sql.Tx, f *metering.Filter, page metering.Page, m mark, until int64) ([]metering.Record, error) {
	base := selection(f, m)
	if !page.After.IsZero() {
		base.add("timestamp_us >= ?", page.After.TimestampUS)
		base.add("(timestamp_us, seq) > (?, ?)", page.After.TimestampUS, page.After.Sequence)
	}
	if until != math.MaxInt64 {
		base.add("seq <= ?", until)
	}
	const columns = `SELECT seq, octets, timestamp_us FROM usage_records`
	query, args := columns+base.where(), base.args
	if f.Party != "" { // two walks along their indexes, merged
		consumer := clauses{append([]string{"consumer = ?", "agent <> ?"}, base.terms...), append([]any{string(f.Party), string(f.Party)}, base.args...)}
		agent := clauses{append([]string{"agent = ?"}, base.terms...), append([]any{string(f.Party)}, base.args...)}
		query = columns + agent.where() + " UNION ALL " + columns + consumer.where()
		args = append(agent.args, consumer.args...)
	}
	rows, err := q.QueryContext(ctx, query+" ORDER BY timestamp_us, seq LIMIT ? OFFSET ?", append(args, page.Limit, page.Offset)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // its error is that of Err
	var records []metering.Record
	for rows.Next() {
		var seq, us int64
		var octets []byte
		if err := rows.Scan(&seq, &octets, &us); err != nil {
			return nil, err
		}
		r, err := metering.ParseRecord(octets)
		if err != nil {
			return nil, fmt.Errorf("usage record %d: %w", seq, err)
		}
		r.Sequence = seq
		records = append(records, r)
	}
	return records, rows.Err()
}

// ExportUsage yields every selected record in ascending (Timestamp, Sequence).
// It reads page by page, so that a slow reader holds up nothing; records never
// change, so the pages fit together: they show the state at the start. A purge
// that overtakes the export ends it with ErrPurged.
func (s *Store) ExportUsage(ctx context.Context, f metering.Filter) iter.Seq2[metering.Record, error] {
	return func(yield func(metering.Record, error) bool) {
		var start mark
		page := metering.Page{Limit: exportPage}
		for first := true; ; first = false {
			var records []metering.Record
			err := s.read(ctx, func(q *sql.Tx) error {
				now, err := readMark(ctx, q)
				if err != nil {
					return err
				}
				if first {
					start = now
				} else if now.beforeUS > start.beforeUS && now.beforeUS > page.After.TimestampUS {
					return fmt.Errorf("export stopped at %s: %w", fromUS(page.After.TimestampUS).Format(time.RFC3339), ErrPurged)
				}
				records, err = listUsage(ctx, q, &f, page, start, start.records)
				return err
			})
			if err != nil {
				yield(metering.Record{}, err)
				return
			}
			for i := range records {
				if !yield(records[i], nil) {
					return
				}
			}
			if len(records) < page.Limit {
				return
			}
			page.After = records[len(records)-1].Position()
		}
	}
}

// UsageStats describes the store as a whole.
func (s *Store) UsageStats(ctx context.Context) (metering.Stats, error) {
	st := metering.Stats{Retention: s.options.Retention}
	err := s.read(ctx, func(q *sql.Tx) error {
		m, err := readMark(ctx, q)
		if err != nil {
			return err
		}
		st.Records = m.records - m.purged
		if m.purged > 0 {
			st.PurgedBefore = fromUS(m.beforeUS)
		}
		var oldest sql.NullInt64
		err = q.QueryRowContext(ctx, `SELECT min(timestamp_us) FROM usage_records WHERE timestamp_us >= ?`, m.beforeUS).Scan(&oldest)
		if oldest.Valid {
			st.Oldest = fromUS(oldest.Int64)
		}
		return err
	})
	return st, err
}

// Budget returns the counter of a delegation token; false if no task ever ran
// under it.
func (s *Store) Budget(ctx context.Context, key ledger.BudgetKey) (b ledger.Budget, found bool, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		b = ledger.Budget{Link: ledger.Link{Issuer: key.Issuer, TokenID: key.TokenID}}
		err := q.QueryRowContext(ctx, `SELECT limit_tasks, limit_nano_usd, used_tasks, held_tasks, used_nano_usd, held_nano_usd, overrun_nano_usd
			FROM budgets WHERE issuer = ? AND token_id = ?`, string(key.Issuer), key.TokenID).
			Scan(&b.LimitTasks, &b.LimitNanoUSD, &b.UsedTasks, &b.HeldTasks, &b.UsedNanoUSD, &b.HeldNanoUSD, &b.OverrunNanoUSD)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		found = err == nil
		return err
	})
	return b, found, err
}

// Holds tells how many tasks are held and since when the oldest one is.
func (s *Store) Holds(ctx context.Context) (count int64, oldest time.Time, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		var us sql.NullInt64
		err := q.QueryRowContext(ctx, `SELECT count(*), min(started_us) FROM tasks INDEXED BY tasks_held WHERE state = 0`).Scan(&count, &us)
		if us.Valid {
			oldest = fromUS(us.Int64)
		}
		return err
	})
	return count, oldest, err
}

// PriceList returns the canonical JSON of a price list that has priced a record.
func (s *Store) PriceList(ctx context.Context, hash string) (agent asap.AgentURN, canonical []byte, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		return q.QueryRowContext(ctx, `SELECT agent, canonical FROM price_lists WHERE hash = ?`, hash).Scan(&agent, &canonical)
	})
	return agent, canonical, err
}
