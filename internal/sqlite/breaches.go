package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

const breachColumns = `id, agent_id, objective, window, threshold, actual_open, actual_worst, actual_last, severity, severity_max,
	started_ms, detected_ms, resolved_ms, close_reason, flaps, flapping, n, bad, wilson, sla_version, incident_id`

// scanBreach reads a row of breachColumns.
func scanBreach(scan func(...any) error) (b ledger.Breach, err error) {
	var window string
	var resolved sql.NullInt64
	var reason sql.NullString
	if err := scan(&b.ID, &b.Agent, &b.Objective, &window, &b.Threshold, &b.ActualOpen, &b.ActualWorst, &b.ActualLast, &b.Severity, &b.SeverityMax,
		&b.StartedAt, &b.DetectedAt, &resolved, &reason, &b.Flaps, &b.Flapping, &b.N, &b.Bad, &b.WilsonPercent, &b.SLAVersion, &b.Incident); err != nil {
		return b, err
	}
	if resolved.Valid {
		at := sla.Instant(resolved.Int64)
		b.ResolvedAt, b.CloseReason = &at, reason.String
	}
	b.Window, err = sla.ParseWindow(window)
	return b, err
}

func (l *loading) breaches(n *ledger.Needs) error {
	keys := func(list []string) driver.Value {
		array := []byte{'['}
		for _, id := range list {
			array = append(appendString(array, id), ',')
		}
		return closeArray(array)
	}
	found := func(r *row) error {
		b, err := scanBreach(func(to ...any) error { return assign(r, to) })
		l.out.Breaches = append(l.out.Breaches, b)
		return err
	}
	if err := l.c.query(`SELECT `+breachColumns+` FROM sla_breach WHERE id IN (SELECT value FROM json_each(?))`, found, keys(n.Breaches)); err != nil {
		return err
	}
	return l.c.query(`SELECT `+breachColumns+` FROM sla_breach INDEXED BY sla_breach_open WHERE resolved_ms IS NULL
		AND agent_id IN (SELECT value FROM json_each(?))`, found, keys(n.OpenBreaches))
}

// assign copies the values of a row, like sql.Rows.Scan for the types of a breach.
func assign(r *row, to []any) error {
	for i, dst := range to {
		switch v := dst.(type) {
		case *string:
			*v = r.text(i)
		case *sla.Objective:
			*v = sla.Objective(r.text(i))
		case *sla.Severity:
			*v = sla.Severity(r.text(i))
		case *sla.Instant:
			*v = sla.Instant(r.int(i))
		case *int64:
			*v = r.int(i)
		case *int:
			*v = int(r.int(i))
		case *bool:
			*v = r.int(i) != 0
		case **float64:
			*v = nil
			if f, ok := r.values[i].(float64); ok {
				*v = &f
			}
		case sql.Scanner:
			if err := v.Scan(r.values[i]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("column %d: no place for it", i)
		}
	}
	return nil
}

func (t *tx) putBreach(c *ledger.BreachChange) error {
	b := &c.Breach
	var resolved, reason, wilson driver.Value
	if b.ResolvedAt != nil {
		resolved, reason = int64(*b.ResolvedAt), b.CloseReason
	}
	if b.WilsonPercent != nil {
		wilson = *b.WilsonPercent
	}
	if _, err := t.c.exec(`INSERT INTO sla_breach (`+breachColumns+`, last_seq) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22)
		ON CONFLICT (id) DO UPDATE SET actual_worst = ?7, actual_last = ?8, severity = ?9, severity_max = ?10, resolved_ms = ?13, close_reason = ?14,
		flaps = ?15, flapping = ?16, last_seq = ?22`,
		b.ID, b.Agent, string(b.Objective), b.Window.String(), b.Threshold, b.ActualOpen, b.ActualWorst, b.ActualLast, string(b.Severity), string(b.SeverityMax),
		int64(b.StartedAt), int64(b.DetectedAt), resolved, reason, int64(b.Flaps), flag(b.Flapping), b.N, b.Bad, wilson, b.SLAVersion, b.Incident, c.Seq); err != nil {
		return err
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	_, err = t.c.exec(`INSERT INTO sla_notification (seq, breach_id, kind, at_ms, breach) VALUES (?, ?, ?, ?, ?)`,
		c.Seq, b.ID, string(c.Kind), int64(c.At), text)
	return err
}

// Breaches implements slawatch.Log.
func (s *Store) Breaches(ctx context.Context, f slawatch.BreachFilter) (list []ledger.Breach, total int, err error) {
	var c clauses
	if f.Agents != nil {
		array := []byte{'['}
		for _, id := range f.Agents {
			array = append(appendString(array, id), ',')
		}
		c.add("agent_id IN (SELECT value FROM json_each(?))", closeArray(array))
	}
	if f.Objective != "" {
		c.add("objective = ?", string(f.Objective))
	}
	if f.Severity != "" {
		c.add("severity_max = ?", string(f.Severity))
	}
	if f.Open != nil {
		c.terms = append(c.terms, map[bool]string{true: "resolved_ms IS NULL", false: "resolved_ms IS NOT NULL"}[*f.Open])
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
	err = s.read(ctx, func(q *sql.Tx) error {
		if err := q.QueryRowContext(ctx, `SELECT count(*) FROM sla_breach`+c.where(), c.args...).Scan(&total); err != nil {
			return err
		}
		if f.After != nil {
			c.add("started_ms <= ?", int64(f.After.StartedAt))
			c.terms, c.args = append(c.terms, "(started_ms, id) < (?, ?)"), append(c.args, int64(f.After.StartedAt), f.After.ID)
		}
		order, limit := ` ORDER BY started_ms DESC, id DESC`, f.Limit
		if f.Ascending {
			order = ` ORDER BY detected_ms, id`
		}
		if limit <= 0 {
			limit = -1
		}
		return each(ctx, q, `SELECT `+breachColumns+` FROM sla_breach`+c.where()+order+` LIMIT ?`, func(scan func(...any) error) error {
			b, err := scanBreach(scan)
			list = append(list, b)
			return err
		}, append(c.args, limit)...)
	})
	return list, total, err
}

// BreachChanges implements slawatch.Log.
func (s *Store) BreachChanges(ctx context.Context, after int64, limit int) (changes []ledger.BreachChange, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		return each(ctx, q, `SELECT seq, kind, at_ms, breach FROM sla_notification WHERE seq > ? ORDER BY seq LIMIT ?`, func(scan func(...any) error) error {
			var c ledger.BreachChange
			var text []byte
			if err := scan(&c.Seq, &c.Kind, &c.At, &text); err != nil {
				return err
			}
			err := json.Unmarshal(text, &c.Breach)
			changes = append(changes, c)
			return err
		}, after, limit)
	})
	return changes, err
}

// LastBreachChange implements slawatch.Log.
func (s *Store) LastBreachChange(ctx context.Context) (seq int64, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		return q.QueryRowContext(ctx, `SELECT coalesce(max(seq), -1) FROM sla_notification`).Scan(&seq)
	})
	return seq, err
}

// Delivered implements slawatch.Deliveries.
func (s *Store) Delivered(ctx context.Context, sink string) (seq int64, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		return q.QueryRowContext(ctx, `SELECT seq FROM sla_delivery WHERE sink = ?`, sink).Scan(&seq)
	})
	if !errors.Is(err, sql.ErrNoRows) {
		return seq, err
	}
	if seq, err = s.LastBreachChange(ctx); err != nil {
		return 0, err
	}
	return seq, s.SetDelivered(ctx, sink, seq, nil)
}

// SetDelivered implements slawatch.Deliveries.
func (s *Store) SetDelivered(_ context.Context, sink string, seq int64, letter *slawatch.DeadLetter) error {
	return s.transact(func(c *conn) error {
		if letter != nil {
			if _, err := c.exec(`REPLACE INTO sla_dead_letter (sink, seq, at_ms, attempts, error) VALUES (?, ?, ?, ?, ?)`,
				sink, seq, int64(letter.At), int64(letter.Attempts), strings.ToValidUTF8(letter.Error, "?")); err != nil {
				return err
			}
		}
		_, err := c.exec(`REPLACE INTO sla_delivery (sink, seq) VALUES (?, ?)`, sink, seq)
		return err
	})
}
