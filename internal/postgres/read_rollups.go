package postgres

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Rollups yields the sums of the selected records, told apart by dims. Whole
// days and hours come from the rollups, so the time it takes depends on how many
// hours, agents and consumers there are, not on how many records. Single records
// are read for the hours that Start or End cut, and for a filter on a task.
//
// An hour that is cut and whose records were purged is an ErrPurged.
func (s *Store) Rollups(ctx context.Context, f metering.Filter, dims metering.Dims) iter.Seq2[metering.RollupRow, error] {
	return func(yield func(metering.RollupRow, error) bool) {
		var out []metering.RollupRow
		err := s.read(ctx, func(q pgx.Tx) error {
			m, err := readMark(ctx, q)
			if err != nil {
				return err
			}
			a := &aggregation{ctx: ctx, q: q, f: f, dims: dims, mark: m}
			err = a.run()
			out = a.out
			return err
		})
		if err != nil {
			yield(metering.RollupRow{}, err)
			return
		}
		for _, row := range out {
			if !yield(row, nil) {
				return
			}
		}
	}
}

type aggregation struct {
	ctx  context.Context
	q    pgx.Tx
	f    metering.Filter
	dims metering.Dims
	mark mark
	out  []metering.RollupRow
}

// run sums the pieces of the range, each from the coarsest that holds it.
func (a *aggregation) run() error {
	if a.f.TaskID != "" {
		return a.records(a.f.Start, a.f.End)
	}
	for _, p := range ledger.Cut(&a.f, a.dims) {
		sum := a.edge
		if !p.Records {
			sum = func(lo, hi int64) error { return a.cells(p.Span, lo, hi) }
		}
		if err := sum(p.LoUS, p.HiUS); err != nil {
			return err
		}
	}
	return nil
}

// edge sums the records of a part of an hour.
func (a *aggregation) edge(lo, hi int64) error {
	if lo < a.mark.beforeUS {
		var lost bool
		if err := a.q.QueryRow(a.ctx, `SELECT EXISTS (SELECT 1 FROM usage_rollups WHERE span = 0 AND delegation = '' AND start_us = $1)`,
			ledger.Hour.StartUS(fromUS(lo))).Scan(&lost); err != nil {
			return err
		}
		if lost {
			return fmt.Errorf("%w: %s", ErrPurged, fromUS(lo).Format(time.RFC3339))
		}
	}
	return a.records(fromUS(lo), fromUS(hi))
}

// records sums single records, in constant memory.
func (a *aggregation) records(start, end time.Time) error {
	f := a.f
	f.Start, f.End = start, end
	sums := map[metering.RollupRow]*metering.Sums{}
	page := metering.Page{Limit: exportPage}
	for {
		records, err := listUsage(a.ctx, a.q, &f, page, a.mark, math.MaxInt64)
		if err != nil {
			return err
		}
		for i := range records {
			row := records[i].RollupRow(a.dims)
			add := row.Sums
			row.Sums = metering.Sums{}
			if sums[row] == nil {
				sums[row] = &metering.Sums{}
			}
			if err := sums[row].Merge(add); err != nil {
				return err
			}
		}
		if len(records) < page.Limit {
			break
		}
		page.After = records[len(records)-1].Position()
	}
	for row, total := range sums {
		row.Sums = *total
		a.out = append(a.out, row)
	}
	return nil
}

// dayOfHour is the start of the day an hour's cell belongs to, before 1970 too.
const dayOfHour = "start_us - ((start_us % 86400000000) + 86400000000) % 86400000000"

// cells sums rollups of one span.
func (a *aggregation) cells(span ledger.Span, lo, hi int64) error {
	var c clauses
	c.add("span = ?", int64(span))
	text := func(column, value string) {
		if value != "" {
			c.add(column+" = ?", value)
		}
	}
	if lo != math.MinInt64 {
		c.add("start_us >= ?", lo)
	}
	if hi != math.MaxInt64 {
		c.add("start_us < ?", hi)
	}
	text("agent", string(a.f.Agent))
	text("consumer", string(a.f.Consumer))
	text("skill", a.f.Skill)
	text("outcome", string(a.f.Outcome))
	if a.f.Party != "" {
		c.add("(agent = ? OR consumer = ?)", string(a.f.Party), string(a.f.Party))
	}

	start := "start_us"
	if a.dims.Has(metering.ByDay) && span == ledger.Hour {
		start = dayOfHour
	}
	dims := []struct {
		dim    metering.Dims
		column string
		none   string
	}{{metering.ByHour | metering.ByDay, start, "0::bigint"}, {metering.ByAgent, "agent", "''"}, {metering.ByConsumer, "consumer", "''"},
		{metering.ByOutcome, "outcome", "''"}, {metering.BySkill, "skill", "''"}, {metering.ByDelegation, "delegation", "''"}}
	var columns, group []string
	for _, d := range dims {
		if a.dims&d.dim == 0 {
			columns = append(columns, d.none)
			continue
		}
		columns, group = append(columns, d.column), append(group, d.column)
	}
	var source string
	switch {
	case a.f.Delegation != "":
		c.add("delegation = ?", a.f.Delegation)
		source = "usage_rollups" + c.where()
	case a.dims.Has(metering.ByDelegation):
		source = byDelegation(c.where())
	default:
		c.add("delegation = ''")
		source = "usage_rollups" + c.where()
	}
	//nolint:gosec // the columns, the source and the groups are texts of this package
	sql := "SELECT " + strings.Join(columns, ", ") + `, sum(tasks)::bigint, sum(tokens_in)::bigint, sum(tokens_out)::bigint, sum(api_calls)::bigint,
		sum(duration_ms)::bigint, sum(cost_nano_usd)::bigint, sum(unpriced)::bigint, sum(unreported)::bigint FROM ` + source
	if len(group) > 0 {
		sql += " GROUP BY " + strings.Join(group, ", ")
	} else {
		sql += " HAVING count(*) > 0"
	}
	return query(a.ctx, a.q, sql, func(r *row) error {
		out := metering.RollupRow{Sums: r.sums(6)}
		out.HourUS, out.Agent, out.Consumer = r.int(0), asap.AgentURN(r.text(1)), asap.AgentURN(r.text(2))
		out.Outcome, out.Skill, out.Delegation = metering.Outcome(r.text(3)), r.text(4), r.text(5)
		if out.IsZero() && a.dims.Has(metering.ByDelegation) {
			return nil // what a token had is not without one
		}
		a.out = append(a.out, out)
		return nil
	}, c.args...)
}

// byDelegation is the source of a grouping by token. The cells without a token
// hold everything, so what ran under tokens is taken out of them.
func byDelegation(where string) string {
	const keys = "SELECT start_us, agent, consumer, outcome, skill, "
	const minus = "-tasks AS tasks, -tokens_in AS tokens_in, -tokens_out AS tokens_out, -api_calls AS api_calls, -duration_ms AS duration_ms, " +
		"-cost_nano_usd AS cost_nano_usd, -unpriced AS unpriced, -unreported AS unreported"
	return "(" + keys + "delegation, " + sumColumns + " FROM usage_rollups" + where +
		" UNION ALL " + keys + "'' AS delegation, " + minus + " FROM usage_rollups" + where + " AND delegation <> '') AS cells"
}
