package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/sla/sketch"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// transact runs f in a write transaction that is not one of the ledger's.
func (s *Store) transact(f func(c *conn) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.writer == nil {
		return fmt.Errorf("%w: %w", ledger.ErrUnavailable, ErrReadOnly)
	}
	if s.memory != nil {
		s.memory.Lock()
		defer s.memory.Unlock()
	}
	if s.open {
		if err := s.rollback(); err != nil {
			return explain(s.path, err)
		}
	}
	_, err := s.writer.exec("BEGIN IMMEDIATE")
	if err == nil {
		err = f(s.writer)
	}
	if err == nil {
		_, err = s.writer.exec("COMMIT")
	}
	if err != nil {
		_ = s.rollback() // a failure is remembered in s.open and tried again
		return explain(s.path, err)
	}
	return nil
}

// LoadSLA implements slawatch.Store.
func (s *Store) LoadSLA(ctx context.Context) (*slawatch.Saved, error) {
	saved := &slawatch.Saved{}
	err := s.read(ctx, func(q *sql.Tx) error {
		p := &saved.Position
		switch err := q.QueryRowContext(ctx, `SELECT at_ms, input_seq, records FROM sla_position`).Scan(&p.At, &p.Input, &p.Records); {
		case err == nil:
			saved.Known = true
		case errors.Is(err, sql.ErrNoRows):
			if err := q.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM usage_records`).Scan(&p.Records); err != nil {
				return err
			}
		default:
			return err
		}
		if err := each(ctx, q, `SELECT state FROM sla_agent`, func(scan func(...any) error) error {
			var text []byte
			var a sla.AgentState
			if err := scan(&text); err != nil {
				return err
			}
			err := json.Unmarshal(text, &a)
			saved.Agents = append(saved.Agents, a)
			return err
		}); err != nil {
			return err
		}
		if err := each(ctx, q, `SELECT hour_ms, keys FROM sla_dedup ORDER BY hour_ms`, func(scan func(...any) error) error {
			var seen sla.SeenTasks
			var keys []byte
			if err := scan(&seen.Hour, &keys); err != nil {
				return err
			}
			for ; len(keys) >= 8; keys = keys[8:] {
				seen.Keys = append(seen.Keys, binary.BigEndian.Uint64(keys))
			}
			saved.Seen = append(saved.Seen, seen)
			return nil
		}); err != nil {
			return err
		}
		var err error
		saved.Inputs, err = readInputs(ctx, q, p.Input, -1)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load what is known about service levels: %w", err)
	}
	return saved, nil
}

// each calls f for every row of a query.
func each(ctx context.Context, q *sql.Tx, query string, f func(scan func(...any) error) error, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // its error is that of Err
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// JournalSLA implements slawatch.Store.
func (s *Store) JournalSLA(_ context.Context, inputs []slawatch.Input) error {
	return s.transact(func(c *conn) error {
		end, err := journalEnd(c)
		if err != nil {
			return err
		}
		if first := &inputs[0]; first.Seq != end.last+1 || int64(first.At) < max(end.lastMS, end.positionMS) {
			return slawatch.ErrFenced
		}
		for i := range inputs {
			text, err := json.Marshal(&inputs[i])
			if err != nil {
				return err
			}
			if _, err := c.exec(`INSERT INTO sla_input (seq, at_ms, input) VALUES (?, ?, ?)`, inputs[i].Seq, int64(inputs[i].At), text); err != nil {
				return err
			}
		}
		return nil
	})
}

// ends says where the journal and the stored state end; 0 where there is none.
type ends struct {
	last, lastMS         int64 // of the journal, or of the state if that is all there is
	position, positionMS int64
}

func journalEnd(c *conn) (e ends, err error) {
	err = c.query(`SELECT input_seq, at_ms FROM sla_position`, func(r *row) error {
		e = ends{r.int(0), 0, r.int(0), r.int(1)}
		return nil
	})
	if err != nil {
		return e, err
	}
	return e, c.query(`SELECT seq, at_ms FROM sla_input ORDER BY seq DESC LIMIT 1`, func(r *row) error {
		e.last, e.lastMS = max(e.last, r.int(0)), r.int(1)
		return nil
	})
}

// SLAJournal implements slawatch.Store.
func (s *Store) SLAJournal(ctx context.Context, after int64, limit int) (inputs []slawatch.Input, p slawatch.Position, err error) {
	err = s.read(ctx, func(q *sql.Tx) error {
		if err := q.QueryRowContext(ctx, `SELECT at_ms, input_seq, records FROM sla_position`).Scan(&p.At, &p.Input, &p.Records); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		inputs, err = readInputs(ctx, q, after, limit)
		return err
	})
	return inputs, p, err
}

func readInputs(ctx context.Context, q *sql.Tx, after int64, limit int) (inputs []slawatch.Input, err error) {
	return inputs, each(ctx, q, `SELECT seq, at_ms, input FROM sla_input WHERE seq > ? ORDER BY seq LIMIT ?`, func(scan func(...any) error) error {
		var in slawatch.Input
		var text []byte
		var seq int64
		var at sla.Instant
		if err := scan(&seq, &at, &text); err != nil {
			return err
		}
		err := json.Unmarshal(text, &in)
		in.Seq, in.At = seq, at
		inputs = append(inputs, in)
		return err
	}, after, limit)
}

// CheckpointSLA implements slawatch.Store.
func (s *Store) CheckpointSLA(_ context.Context, p *slawatch.Checkpoint) error {
	return s.transact(func(c *conn) error {
		end, err := journalEnd(c)
		if err != nil {
			return err
		}
		if p.Journal != end.last || p.Position.Input < end.position || int64(p.Position.At) < end.positionMS {
			return slawatch.ErrFenced
		}
		for i := range p.Agents {
			a := &p.Agents[i]
			text, err := json.Marshal(a)
			if err != nil {
				return err
			}
			var removed driver.Value
			if a.Removed != nil {
				removed = int64(*a.Removed)
			}
			if _, err := c.exec(`REPLACE INTO sla_agent (agent_id, registered_ms, removed_ms, sla_json, state) VALUES (?, ?, ?, ?, ?)`,
				a.Agent, int64(a.Registered), removed, string(a.SLA), text); err != nil {
				return err
			}
		}
		for _, seen := range p.Seen {
			keys := make([]byte, 0, 8*len(seen.Keys))
			for _, key := range seen.Keys {
				keys = binary.BigEndian.AppendUint64(keys, key)
			}
			if _, err := c.exec(`REPLACE INTO sla_dedup (hour_ms, keys) VALUES (?, ?)`, int64(seen.Hour), keys); err != nil {
				return err
			}
		}
		if _, err := c.exec(`DELETE FROM sla_dedup WHERE hour_ms < ?`, int64(p.SeenSince)); err != nil {
			return err
		}
		for i := range p.Buckets {
			b := &p.Buckets[i]
			counts, err := json.Marshal(&b.Counts)
			if err != nil {
				return err
			}
			if _, err := c.exec(`REPLACE INTO sla_bucket (tier, start_ms, agent_id, registered_ms, counts, sla_version, sketch) VALUES (?, ?, ?, ?, ?, ?, ?)`,
				int64(b.Tier), int64(b.Start), b.Agent, int64(b.Registered), string(counts), b.SLAVersion, b.Sketch.Append([]byte{})); err != nil {
				return err
			}
		}
		for tier, before := range p.Expire {
			if _, err := c.exec(`DELETE FROM sla_bucket WHERE tier = ? AND start_ms < ?`, int64(tier), int64(before)); err != nil {
				return err
			}
		}
		// Not all at once: others wait. LoadSLA leaves them out in any case.
		if _, err := c.exec(`DELETE FROM sla_input WHERE seq <= ? AND seq < (SELECT min(seq) FROM sla_input) + 4096`, end.position); err != nil {
			return err
		}
		_, err = c.exec(`REPLACE INTO sla_position (one, at_ms, input_seq, records) VALUES (1, ?, ?, ?)`,
			int64(p.Position.At), p.Position.Input, p.Position.Records)
		return err
	})
}

// SLABuckets implements slawatch.Store.
func (s *Store) SLABuckets(ctx context.Context, tier sla.Tier, agent string, from, until sla.Instant) (buckets []sla.Bucket, err error) {
	query, args := `SELECT start_ms, agent_id, registered_ms, counts, sla_version, sketch FROM sla_bucket WHERE tier = ? AND start_ms >= ? AND start_ms < ?`,
		[]any{int64(tier), int64(from), int64(until)}
	if agent != "" {
		query, args = query+` AND agent_id = ?`, append(args, agent)
	}
	err = s.read(ctx, func(q *sql.Tx) error {
		return each(ctx, q, query+` ORDER BY start_ms, agent_id`, func(scan func(...any) error) error {
			b := sla.Bucket{Tier: tier}
			var counts string
			var latencies []byte
			if err := scan(&b.Start, &b.Agent, &b.Registered, &counts, &b.SLAVersion, &latencies); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(counts), &b.Counts); err != nil {
				return err
			}
			var err error
			if b.Sketch, err = sketch.Decode(latencies); err != nil {
				return fmt.Errorf("bucket of %s at %s: %w", b.Agent, b.Start, err)
			}
			buckets = append(buckets, b)
			return nil
		}, args...)
	})
	return buckets, err
}

// TaskEnds implements slawatch.Store.
func (s *Store) TaskEnds(ctx context.Context, after, until int64, limit int) (ends []slawatch.TaskEnd, last int64, err error) {
	last = after
	query, args := `SELECT r.seq, r.octets, coalesce(t.failure, '') FROM usage_records r LEFT JOIN tasks t ON t.seq = r.task_seq WHERE r.seq > ?`, []any{after}
	if until > 0 {
		query, args = query+` AND r.seq <= ?`, append(args, until)
	}
	err = s.read(ctx, func(q *sql.Tx) error {
		return each(ctx, q, query+` ORDER BY r.seq LIMIT ?`, func(scan func(...any) error) error {
			var seq int64
			var octets []byte
			var failure string
			if err := scan(&seq, &octets, &failure); err != nil {
				return err
			}
			r, err := metering.ParseRecord(octets)
			if err != nil {
				return fmt.Errorf("usage record %d: %w", seq, err)
			}
			last = seq
			if r.Kind != metering.Usage {
				return nil
			}
			end := slawatch.TaskEnd{Record: seq, Agent: string(r.Agent), TaskID: string(r.TaskID), Outcome: string(r.Outcome),
				Failure: failure, EndedAt: sla.InstantOf(r.Timestamp), DurationMS: r.DurationMS, Observed: r.Evidence == metering.Observed}
			if r.Delegation != nil {
				end.Delegation = r.Delegation.TokenID
			}
			ends = append(ends, end)
			return nil
		}, append(args, limit)...)
	})
	return ends, last, err
}
