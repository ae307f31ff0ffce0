package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// ErrPurged reports a question about single records of a time whose records
// were purged. It is metering.ErrPurged.
var ErrPurged = metering.ErrPurged

// errEnough ends a query whose reader wants no more rows.
var errEnough = errors.New("enough")

func isEnough(err error) bool { return errors.Is(err, errEnough) }

// exportPage is how many records an export holds in memory.
const exportPage = 500

// mark is the retention mark, behind which records count as gone even if their
// rows are still being removed.
type mark struct{ records, purged, beforeUS int64 }

func readMark(ctx context.Context, q querier) (m mark, err error) {
	err = query(ctx, q, `SELECT records, purged, coalesce(purged_before_us, -9223372036854775808) FROM ledger_head`, func(r *row) error {
		m = mark{r.int(0), r.int(1), r.int(2)}
		return nil
	})
	return m, err
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
		c.add(`seq = ANY (ARRAY(SELECT i.seq FROM tasks t JOIN task_ends d ON d.task_seq = t.seq JOIN usage_ids i ON i.id = d.record_id WHERE t.task_id = ?
			UNION SELECT u.seq FROM usage_records u WHERE u.task_seq IS NULL AND u.task_id = ?))`, string(f.TaskID), string(f.TaskID))
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
	err = s.read(ctx, func(q pgx.Tx) error {
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
func listUsage(ctx context.Context, q querier, f *metering.Filter, page metering.Page, m mark, until int64) (records []metering.Record, err error) {
	c := selection(f, m)
	if !page.After.IsZero() {
		c.add("(timestamp_us, seq) > (?, ?)", page.After.TimestampUS, page.After.Sequence)
	}
	if until != math.MaxInt64 {
		c.add("seq <= ?", until)
	}
	const columns = `SELECT seq, octets, timestamp_us FROM usage_records`
	sql := columns + c.where()
	if f.Party != "" { // two walks along their indexes, merged
		party := c.bind(string(f.Party))
		and := " WHERE "
		if len(c.terms) > 0 {
			and = c.where() + " AND "
		}
		sql = columns + and + "agent = " + party + " UNION ALL " + columns + and + "consumer = " + party + " AND agent <> " + party
	}
	sql += " ORDER BY timestamp_us, seq LIMIT " + c.bind(page.Limit) + " OFFSET " + c.bind(page.Offset)
	err = query(ctx, q, sql, func(r *row) error {
		rec, err := metering.ParseRecord(r.blob(1))
		if err != nil {
			return fmt.Errorf("usage record %d: %w", r.int(0), err)
		}
		rec.Sequence = r.int(0)
		records = append(records, rec)
		return nil
	}, c.args...)
	return records, err
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
			err := s.read(ctx, func(q pgx.Tx) error {
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
	err := s.read(ctx, func(q pgx.Tx) error {
		m, err := readMark(ctx, q)
		if err != nil {
			return err
		}
		st.Records = m.records - m.purged
		if m.purged > 0 {
			st.PurgedBefore = fromUS(m.beforeUS)
		}
		return query(ctx, q, `SELECT min(timestamp_us) FROM usage_records WHERE timestamp_us >= $1`, func(r *row) error {
			if !r.null(0) {
				st.Oldest = fromUS(r.int(0))
			}
			return nil
		}, m.beforeUS)
	})
	return st, err
}

// Budget returns the counter of a delegation token; false if no task ever ran
// under it.
func (s *Store) Budget(ctx context.Context, key ledger.BudgetKey) (b ledger.Budget, found bool, err error) {
	b.Issuer, b.TokenID = key.Issuer, key.TokenID
	err = s.one(ctx, `SELECT `+budgetColumns+` FROM budgets b WHERE b.issuer = $1 AND b.token_id = $2`, func(r *row) error {
		b, found = readBudget(r), true
		return nil
	}, string(key.Issuer), key.TokenID)
	return b, found, err
}

// Holds tells how many tasks are held and since when the oldest one is.
func (s *Store) Holds(ctx context.Context) (count int64, oldest time.Time, err error) {
	err = s.one(ctx, `SELECT count(*), min(started_us) FROM holds`, func(r *row) error {
		count = r.int(0)
		if !r.null(1) {
			oldest = fromUS(r.int(1))
		}
		return nil
	})
	return count, oldest, err
}

// PriceList returns the canonical JSON of a price list that has priced a record.
func (s *Store) PriceList(ctx context.Context, hash string) (agent asap.AgentURN, canonical []byte, err error) {
	found := false
	err = s.one(ctx, `SELECT agent, canonical FROM price_lists WHERE hash = $1`, func(r *row) error {
		agent, canonical, found = asap.AgentURN(r.text(0)), r.blob(1), true
		return nil
	}, hash)
	if err == nil && !found {
		err = fmt.Errorf("price list %s: %w", hash, metering.ErrNotFound)
	}
	return agent, canonical, err
}
