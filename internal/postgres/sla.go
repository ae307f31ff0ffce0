package postgres

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/sla/sketch"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

func (s *Store) writable() error {
	if s.options.ReadOnly {
		return fmt.Errorf("%w: %w", ledger.ErrUnavailable, ErrReadOnly)
	}
	return nil
}

// transact runs f in a write transaction that is not one of the ledger's.
func (s *Store) transact(ctx context.Context, f func(q pgx.Tx) error) error {
	if err := s.writable(); err != nil {
		return err
	}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, f)
	return s.readError(ctx, err)
}

// LoadSLA implements slawatch.Store.
func (s *Store) LoadSLA(ctx context.Context) (*slawatch.Saved, error) {
	saved := &slawatch.Saved{}
	err := s.read(ctx, func(q pgx.Tx) error {
		p := &saved.Position
		if err := query(ctx, q, `SELECT at_ms, input_seq, records FROM sla_position`, func(r *row) error {
			saved.Known, p.At, p.Input, p.Records = true, sla.Instant(r.int(0)), r.int(1), r.int(2)
			return nil
		}); err != nil {
			return err
		}
		if !saved.Known {
			if err := query(ctx, q, `SELECT coalesce(max(seq), 0) FROM usage_records`, func(r *row) error { p.Records = r.int(0); return nil }); err != nil {
				return err
			}
		}
		if err := query(ctx, q, `SELECT state FROM sla_agent ORDER BY agent_id`, func(r *row) error {
			var a sla.AgentState
			err := json.Unmarshal(r.bytes(0), &a)
			saved.Agents = append(saved.Agents, a)
			return err
		}); err != nil {
			return err
		}
		if err := query(ctx, q, `SELECT hour_ms, keys FROM sla_dedup ORDER BY hour_ms`, func(r *row) error {
			seen := sla.SeenTasks{Hour: sla.Instant(r.int(0))}
			for keys := r.bytes(1); len(keys) >= 8; keys = keys[8:] {
				seen.Keys = append(seen.Keys, binary.BigEndian.Uint64(keys))
			}
			saved.Seen = append(saved.Seen, seen)
			return nil
		}); err != nil {
			return err
		}
		inputs, err := slaInputs(ctx, q, p.Input, nil)
		saved.Inputs = inputs
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load what is known about service levels: %w", err)
	}
	return saved, nil
}

func slaInputs(ctx context.Context, q querier, after int64, limit *int) (inputs []slawatch.Input, err error) {
	err = query(ctx, q, `SELECT seq, at_ms, input FROM sla_input WHERE seq > $1 ORDER BY seq LIMIT $2`, func(r *row) error {
		var in slawatch.Input
		err := json.Unmarshal(r.bytes(2), &in)
		in.Seq, in.At = r.int(0), sla.Instant(r.int(1))
		inputs = append(inputs, in)
		return err
	}, after, limit)
	return inputs, err
}

// SLAJournal implements slawatch.Store.
func (s *Store) SLAJournal(ctx context.Context, after int64, limit int) (inputs []slawatch.Input, p slawatch.Position, err error) {
	err = s.read(ctx, func(q pgx.Tx) error {
		if err := query(ctx, q, `SELECT at_ms, input_seq, records FROM sla_position`, func(r *row) error {
			p = slawatch.Position{At: sla.Instant(r.int(0)), Input: r.int(1), Records: r.int(2)}
			return nil
		}); err != nil {
			return err
		}
		inputs, err = slaInputs(ctx, q, after, &limit)
		return err
	})
	return inputs, p, err
}

// ends says where the journal and the stored state end; 0 where there is none.
type ends struct {
	last, lastMS         int64 // of the journal, or of the state if that is all there is
	position, positionMS int64
}

// lockJournal lets one write to the journal at a time.
const lockJournal = `SELECT pg_advisory_xact_lock(1095975248, hashtext('journal ' || current_schema()))`

// fenced runs f in a transaction in which nobody else writes to the journal.
func (s *Store) fenced(ctx context.Context, f func(q pgx.Tx, e ends) error) error {
	err := s.transact(ctx, func(q pgx.Tx) error {
		if _, err := q.Exec(ctx, lockJournal); err != nil {
			return err
		}
		var e ends
		if err := query(ctx, q, `SELECT input_seq, at_ms FROM sla_position`, func(r *row) error {
			e = ends{r.int(0), 0, r.int(0), r.int(1)}
			return nil
		}); err != nil {
			return err
		}
		if err := query(ctx, q, `SELECT seq, at_ms FROM sla_input ORDER BY seq DESC LIMIT 1`, func(r *row) error {
			e.last, e.lastMS = max(e.last, r.int(0)), r.int(1)
			return nil
		}); err != nil {
			return err
		}
		return f(q, e)
	})
	if code(err) == codeUniqueViolation {
		return fmt.Errorf("%w: %w", slawatch.ErrFenced, err)
	}
	return err
}

// JournalSLA implements slawatch.Store.
func (s *Store) JournalSLA(ctx context.Context, inputs []slawatch.Input) error {
	seq, at, texts := make([]int64, len(inputs)), make([]int64, len(inputs)), make([][]byte, len(inputs))
	for i := range inputs {
		text, err := json.Marshal(&inputs[i])
		if err != nil {
			return err
		}
		seq[i], at[i], texts[i] = inputs[i].Seq, int64(inputs[i].At), text
	}
	return s.fenced(ctx, func(q pgx.Tx, e ends) error {
		if first := &inputs[0]; first.Seq != e.last+1 || int64(first.At) < max(e.lastMS, e.positionMS) {
			return slawatch.ErrFenced
		}
		_, err := q.Exec(ctx, `INSERT INTO sla_input (seq, at_ms, input) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])`, seq, at, texts)
		return err
	})
}

// CheckpointSLA implements slawatch.Store.
func (s *Store) CheckpointSLA(ctx context.Context, p *slawatch.Checkpoint) error {
	batch := &pgx.Batch{}
	for i := range p.Agents {
		text, err := json.Marshal(&p.Agents[i])
		if err != nil {
			return err
		}
		batch.Queue(`INSERT INTO sla_agent (agent_id, state) VALUES ($1, $2) ON CONFLICT (agent_id) DO UPDATE SET state = $2`, p.Agents[i].Agent, text)
	}
	for _, seen := range p.Seen {
		keys := make([]byte, 0, 8*len(seen.Keys))
		for _, key := range seen.Keys {
			keys = binary.BigEndian.AppendUint64(keys, key)
		}
		batch.Queue(`INSERT INTO sla_dedup (hour_ms, keys) VALUES ($1, $2) ON CONFLICT (hour_ms) DO UPDATE SET keys = $2`, int64(seen.Hour), keys)
	}
	batch.Queue(`DELETE FROM sla_dedup WHERE hour_ms < $1`, int64(p.SeenSince))
	for i := range p.Buckets {
		b := &p.Buckets[i]
		counts, err := json.Marshal(&b.Counts)
		if err != nil {
			return err
		}
		batch.Queue(`INSERT INTO sla_bucket (tier, start_ms, agent_id, registered_ms, counts, sla_version, sketch) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (tier, start_ms, agent_id) DO UPDATE SET registered_ms = $4, counts = $5, sla_version = $6, sketch = $7`,
			int64(b.Tier), int64(b.Start), b.Agent, int64(b.Registered), string(counts), b.SLAVersion, b.Sketch.Append([]byte{}))
	}
	for tier, before := range p.Expire {
		batch.Queue(`DELETE FROM sla_bucket WHERE tier = $1 AND start_ms < $2`, int64(tier), int64(before))
	}
	return s.fenced(ctx, func(q pgx.Tx, e ends) error {
		if p.Journal != e.last || p.Position.Input < e.position || int64(p.Position.At) < e.positionMS {
			return slawatch.ErrFenced
		}
		// Not all at once: others wait. LoadSLA leaves them out in any case.
		batch.Queue(`DELETE FROM sla_input WHERE seq <= $1 AND seq < (SELECT min(seq) FROM sla_input) + 4096`, e.position)
		batch.Queue(`INSERT INTO sla_position (one, at_ms, input_seq, records) VALUES (true, $1, $2, $3)
			ON CONFLICT (one) DO UPDATE SET at_ms = $1, input_seq = $2, records = $3`, int64(p.Position.At), p.Position.Input, p.Position.Records)
		return q.SendBatch(ctx, batch).Close()
	})
}

// SLABuckets implements slawatch.Store.
func (s *Store) SLABuckets(ctx context.Context, tier sla.Tier, agent string, from, until sla.Instant) (buckets []sla.Bucket, err error) {
	var c clauses
	c.add(`tier = ?`, int64(tier))
	c.add(`start_ms >= ?`, int64(from))
	c.add(`start_ms < ?`, int64(until))
	if agent != "" {
		c.add(`agent_id = ?`, agent)
	}
	err = s.one(ctx, `SELECT start_ms, agent_id, registered_ms, counts, sla_version, sketch FROM sla_bucket`+c.where()+` ORDER BY start_ms, agent_id`, func(r *row) error {
		b := sla.Bucket{Tier: tier, Start: sla.Instant(r.int(0)), Agent: r.text(1), Registered: sla.Instant(r.int(2)), SLAVersion: r.int(4)}
		if err := json.Unmarshal(r.bytes(3), &b.Counts); err != nil {
			return err
		}
		latencies, err := sketch.Decode(r.blob(5))
		if err != nil {
			return fmt.Errorf("bucket of %s at %s: %w", b.Agent, b.Start, err)
		}
		b.Sketch = latencies
		buckets = append(buckets, b)
		return nil
	}, c.args...)
	return buckets, err
}

// TaskEnds implements slawatch.Store.
func (s *Store) TaskEnds(ctx context.Context, after, until int64, limit int) (ends []slawatch.TaskEnd, last int64, err error) {
	last = after
	var c clauses
	c.add(`r.seq > ?`, after)
	if until > 0 {
		c.add(`r.seq <= ?`, until)
	}
	where := c.where()
	err = s.one(ctx, `SELECT r.seq, r.octets, d.failure FROM usage_records r LEFT JOIN task_ends d ON d.task_seq = r.task_seq`+where+
		` ORDER BY r.seq LIMIT `+c.bind(limit), func(r *row) error {
		rec, err := metering.ParseRecord(r.bytes(1))
		if err != nil {
			return fmt.Errorf("usage record %d: %w", r.int(0), err)
		}
		last = r.int(0)
		if rec.Kind == metering.Usage {
			end := slawatch.TaskEnd{Record: last, Agent: string(rec.Agent), TaskID: string(rec.TaskID), Outcome: string(rec.Outcome),
				Failure: r.text(2), EndedAt: sla.InstantOf(rec.Timestamp), DurationMS: rec.DurationMS, Observed: rec.Evidence == metering.Observed}
			if rec.Delegation != nil {
				end.Delegation = rec.Delegation.TokenID
			}
			ends = append(ends, end)
		}
		return nil
	}, c.args...)
	return ends, last, err
}
