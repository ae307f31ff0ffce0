package postgres

import (
	"context"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

const breachColumns = `id, agent_id, objective, "window", threshold, actual_open, actual_worst, actual_last, severity, severity_max,
	started_ms, detected_ms, resolved_ms, close_reason, flaps, flapping, n, bad, wilson, sla_version, incident_id`

// readBreach reads a row of breachColumns.
func readBreach(r *row) (b ledger.Breach, err error) {
	b.ID, b.Agent, b.Objective, b.Threshold = r.text(0), r.text(1), sla.Objective(r.text(2)), r.text(4)
	b.ActualOpen, b.ActualWorst, b.ActualLast = r.text(5), r.text(6), r.text(7)
	b.Severity, b.SeverityMax = sla.Severity(r.text(8)), sla.Severity(r.text(9))
	b.StartedAt, b.DetectedAt = sla.Instant(r.int(10)), sla.Instant(r.int(11))
	b.Flaps, b.Flapping, b.N, b.Bad = int(r.int(14)), r.int(15) != 0, r.int(16), r.int(17)
	b.WilsonPercent, b.SLAVersion, b.Incident = r.float(18), r.int(19), r.text(20)
	if !r.null(12) {
		b.ResolvedAt, b.CloseReason = new(sla.Instant(r.int(12))), r.text(13)
	}
	b.Window, err = sla.ParseWindow(r.text(3))
	return b, err
}

func (w *changing) breach(c *ledger.BreachChange) error {
	b := &c.Breach
	var resolved *int64
	var reason *string
	if b.ResolvedAt != nil {
		resolved, reason = new(int64(*b.ResolvedAt)), &b.CloseReason
	}
	w.batch.Queue(`INSERT INTO sla_breach (`+breachColumns+`, last_seq) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
		$16, $17, $18, $19, $20, $21, $22) ON CONFLICT (id) DO UPDATE SET actual_worst = $7, actual_last = $8, severity = $9, severity_max = $10,
		resolved_ms = $13, close_reason = $14, flaps = $15, flapping = $16, last_seq = $22`,
		b.ID, b.Agent, string(b.Objective), b.Window.String(), b.Threshold, b.ActualOpen, b.ActualWorst, b.ActualLast, string(b.Severity), string(b.SeverityMax),
		int64(b.StartedAt), int64(b.DetectedAt), resolved, reason, int64(b.Flaps), b.Flapping, b.N, b.Bad, b.WilsonPercent, b.SLAVersion, b.Incident, c.Seq)
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	w.batch.Queue(`INSERT INTO sla_notification (seq, breach_id, kind, at_ms, breach) VALUES ($1, $2, $3, $4, $5)`,
		c.Seq, b.ID, string(c.Kind), int64(c.At), text)
	return nil
}

// Breaches implements slawatch.Log.
func (s *Store) Breaches(ctx context.Context, f slawatch.BreachFilter) (list []ledger.Breach, total int, err error) {
	var c clauses
	if f.Agents != nil {
		c.add("agent_id = ANY(?)", f.Agents)
	}
	if f.Objective != "" {
		c.add("objective = ?", string(f.Objective))
	}
	if f.Severity != "" {
		c.add("severity_max = ?", string(f.Severity))
	}
	if f.Open != nil {
		c.add(map[bool]string{true: "resolved_ms IS NULL", false: "resolved_ms IS NOT NULL"}[*f.Open])
	}
	if f.Start != 0 {
		c.add("(resolved_ms IS NULL OR resolved_ms > ?)", int64(f.Start))
	}
	if f.End != 0 {
		c.add("started_ms < ?", int64(f.End))
	}
	if f.DetectedFrom != 0 {
		c.add("detected_ms >= ?", int64(f.DetectedFrom))
	}
	if f.DetectedUntil != 0 {
		c.add("detected_ms <= ?", int64(f.DetectedUntil))
	}
	err = s.read(ctx, func(q pgx.Tx) error {
		if err := query(ctx, q, `SELECT count(*) FROM sla_breach`+c.where(), func(r *row) error { total = int(r.int(0)); return nil }, c.args...); err != nil {
			return err
		}
		if f.After != nil {
			c.add("(started_ms, id) < (?, ?)", int64(f.After.StartedAt), f.After.ID)
		}
		tail := ` ORDER BY started_ms DESC, id DESC`
		if f.Ascending {
			tail = ` ORDER BY detected_ms, id`
		}
		if f.Limit > 0 {
			tail += ` LIMIT ` + c.bind(f.Limit)
		}
		return query(ctx, q, `SELECT `+breachColumns+` FROM sla_breach`+c.where()+tail, func(r *row) error {
			b, err := readBreach(r)
			list = append(list, b)
			return err
		}, c.args...)
	})
	return list, total, err
}

// BreachChanges implements slawatch.Log.
func (s *Store) BreachChanges(ctx context.Context, after int64, limit int) (changes []ledger.BreachChange, err error) {
	err = s.one(ctx, `SELECT seq, kind, at_ms, breach FROM sla_notification WHERE seq > $1 ORDER BY seq LIMIT $2`, func(r *row) error {
		c := ledger.BreachChange{Seq: r.int(0), Kind: sla.EventKind(r.text(1)), At: sla.Instant(r.int(2))}
		err := json.Unmarshal(r.bytes(3), &c.Breach)
		changes = append(changes, c)
		return err
	}, after, limit)
	return changes, err
}

// LastBreachChange implements slawatch.Log.
func (s *Store) LastBreachChange(ctx context.Context) (seq int64, err error) {
	err = s.one(ctx, `SELECT coalesce(max(seq), -1) FROM sla_notification`, func(r *row) error { seq = r.int(0); return nil })
	return seq, err
}

// Delivered implements slawatch.Deliveries.
func (s *Store) Delivered(ctx context.Context, sink string) (seq int64, err error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	_, err = s.pool.Exec(ctx, `INSERT INTO sla_delivery (sink, seq) SELECT $1, coalesce(max(seq), -1) FROM sla_notification ON CONFLICT DO NOTHING`, sink)
	if err != nil {
		return 0, s.readError(ctx, err)
	}
	err = s.one(ctx, `SELECT seq FROM sla_delivery WHERE sink = $1`, func(r *row) error { seq = r.int(0); return nil }, sink)
	return seq, err
}

// SetDelivered implements slawatch.Deliveries.
func (s *Store) SetDelivered(ctx context.Context, sink string, seq int64, letter *slawatch.DeadLetter) error {
	return s.transact(ctx, func(q pgx.Tx) error {
		if letter != nil {
			if _, err := q.Exec(ctx, `INSERT INTO sla_dead_letter (sink, seq, at_ms, attempts, error) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (sink, seq) DO UPDATE SET at_ms = $3, attempts = $4, error = $5`,
				sink, seq, int64(letter.At), int64(letter.Attempts), strings.ReplaceAll(strings.ToValidUTF8(letter.Error, "?"), "\x00", "?")); err != nil {
				return err
			}
		}
		_, err := q.Exec(ctx, `INSERT INTO sla_delivery (sink, seq) VALUES ($1, $2) ON CONFLICT (sink) DO UPDATE SET seq = $2`, sink, seq)
		return err
	})
}
