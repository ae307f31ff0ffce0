package sqlite

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// tx is the write transaction of the writing connection.
type tx struct {
	c     *conn
	wrote bool
	// blocks are the places of the index of URNs that this transaction adds to.
	blocks map[block]struct{}
}

// errDamaged reports a database that contradicts itself.
var errDamaged = errors.New("the audit log is damaged, see asap audit verify")

// Load implements ledger.Tx. What a group needs is asked for in a few queries,
// whatever its size: the keys go in as one JSON array each.
func (t *tx) Load(_ context.Context, n *ledger.Needs) (*ledger.Loaded, error) {
	l := &loading{c: t.c, tasks: map[int64]*ledger.Task{}}
	var err error
	step := func(needed bool, f func(*ledger.Needs) error) {
		if needed && err == nil {
			err = f(n)
		}
	}
	step(n.Head, l.head)
	step(len(n.Envelopes) > 0, l.byEnvelope)
	step(len(n.Tasks) > 0, l.byID)
	step(n.HeldTasks > 0, l.held)
	step(len(n.Records) > 0, l.records)
	step(len(n.Corrections) > 0, l.corrections)
	step(len(n.Budgets) > 0, l.budgets)
	step(len(n.Rollups) > 0, l.rollups)
	step(len(n.Revocations) > 0, l.revocations)
	step(len(n.Tokens) > 0, l.tokens)
	step(len(n.Agents) > 0, l.agents)
	step(n.Prunable, l.prunable)
	step(n.Entry != nil, l.entry)
	step(len(n.Breaches) > 0, l.breaches)
	step(!n.PurgeBefore.IsZero(), l.purgeable)
	// The links are known only after the tasks.
	step(len(l.linked) > 0, l.links)
	return &l.out, err
}

// loading gathers the answer to one Load.
type loading struct {
	c      *conn
	out    ledger.Loaded
	tasks  map[int64]*ledger.Task
	linked []int64
}

func (l *loading) head(*ledger.Needs) error {
	err := l.c.query(`SELECT h.seq, h.hash, e.timestamp_us, e.id, e.hash FROM audit_head h LEFT JOIN audit_entries e ON e.seq = h.seq`, func(r *row) error {
		if r.null(2) || r.hash(1) != r.hash(4) {
			return fmt.Errorf("%w: its head is not its last entry", errDamaged)
		}
		l.out.Head = audit.Head{Size: r.int(0) + 1, Hash: r.hash(1), TimestampUS: r.int(2), LastID: r.text(3)}
		return nil
	})
	if err != nil {
		return err
	}
	return l.c.query(`SELECT records, purged, purged_before_us FROM ledger_counters`, func(r *row) error {
		l.out.Counters = ledger.Counters{Records: r.int(0), Purged: r.int(1)}
		if !r.null(2) {
			l.out.Counters.PurgedBefore = fromUS(r.int(2))
		}
		return nil
	})
}

const taskColumns = `t.seq, t.task_id, t.consumer, t.envelope_id, t.digest, t.agent, t.verified, t.skill, t.parent_task, t.trace_id,
	t.links, t.ceiling_nano_usd, t.started_us, t.expires_us, t.state, t.ended_us, t.end_seq, t.record_id, t.settlement, t.failure, t.charged_nano_usd`

func (l *loading) byEnvelope(n *ledger.Needs) error {
	keys := []byte{'['}
	for _, k := range n.Envelopes {
		keys = append(appendString(append(appendString(append(keys, '['), string(k.Consumer)), ','), string(k.Envelope)), ']', ',')
	}
	return l.c.query(`SELECT `+taskColumns+`, e.id, e.hash, s.id, s.hash, a.answer
		FROM json_each(?) j CROSS JOIN tasks t ON t.consumer = j.value ->> 0 AND t.envelope_id = j.value ->> 1
		LEFT JOIN audit_entries e ON e.seq = t.end_seq LEFT JOIN audit_entries s ON s.seq = t.seq LEFT JOIN answers a ON a.task_seq = t.seq`,
		func(r *row) error {
			t := l.task(r)
			t.Started.EntryID, t.Started.Hash, t.Answer = r.text(23), r.hash(24), r.blob(25)
			return nil
		}, closeArray(keys))
}

func (l *loading) byID(n *ledger.Needs) error {
	keys := []byte{'['}
	for _, id := range n.Tasks {
		keys = append(appendString(keys, string(id)), ',')
	}
	return l.c.query(`SELECT `+taskColumns+`, e.id, e.hash FROM json_each(?) j CROSS JOIN tasks t ON t.task_id = j.value
		LEFT JOIN audit_entries e ON e.seq = t.end_seq`, func(r *row) error { l.task(r); return nil }, closeArray(keys))
}

func (l *loading) held(n *ledger.Needs) error {
	each := func(r *row) error { l.task(r); return nil }
	if n.HeldBeside != "" {
		return l.c.query(`SELECT `+taskColumns+`, NULL, NULL FROM tasks t INDEXED BY tasks_held WHERE t.state = 0 AND t.instance IS NOT ? ORDER BY t.seq LIMIT ?`,
			each, n.HeldBeside, int64(n.HeldTasks))
	}
	if n.HeldExpiredBy.IsZero() {
		return l.c.query(`SELECT `+taskColumns+`, NULL, NULL FROM tasks t INDEXED BY tasks_held WHERE t.state = 0 ORDER BY t.seq LIMIT ?`, each, int64(n.HeldTasks))
	}
	return l.c.query(`SELECT `+taskColumns+`, NULL, NULL FROM tasks t INDEXED BY tasks_held WHERE t.state = 0 AND t.expires_us <= ? ORDER BY t.seq LIMIT ?`,
		each, n.HeldExpiredBy.UnixMicro(), int64(n.HeldTasks))
}

// task makes a task of a row that begins with taskColumns and the id and hash of
// its last entry. One that was read before is that one.
func (l *loading) task(r *row) *ledger.Task {
	if t := l.tasks[r.int(0)]; t != nil {
		return t
	}
	t := &ledger.Task{
		Seq: r.int(0), ID: asap.TaskID(r.text(1)), Consumer: asap.AgentURN(r.text(2)), EnvelopeID: asap.EnvelopeID(r.text(3)),
		Digest: r.hash(4), Agent: asap.AgentURN(r.text(5)), Verified: r.int(6) != 0, Skill: r.text(7),
		ParentTask: asap.TaskID(r.text(8)), TraceID: r.text(9), Ceiling: r.money(11), StartedAt: fromUS(r.int(12)),
		State: ledger.TaskState(r.int(14)), RecordID: r.text(17), Settlement: r.hash(18), Failure: r.text(19), Charged: r.money(20),
	}
	t.Started.Seq = t.Seq
	if !r.null(13) {
		t.ExpiresAt = fromUS(r.int(13))
	}
	if !r.null(16) {
		t.EndedAt = fromUS(r.int(15))
		t.End = ledger.Receipt{Seq: r.int(16), EntryID: r.text(21), Hash: r.hash(22)}
	}
	if r.int(10) > 0 {
		l.linked = append(l.linked, t.Seq)
	}
	l.tasks[t.Seq] = t
	l.out.Tasks = append(l.out.Tasks, t)
	return t
}

func (l *loading) links(*ledger.Needs) error {
	keys := []byte{'['}
	for _, seq := range l.linked {
		keys = append(strconv.AppendInt(keys, seq, 10), ',')
	}
	l.linked = nil
	return l.c.query(`SELECT k.task_seq, k.issuer, k.token_id FROM json_each(?) j CROSS JOIN task_links k ON k.task_seq = j.value ORDER BY k.task_seq, k.link`,
		func(r *row) error {
			t := l.tasks[r.int(0)]
			t.Links = append(t.Links, ledger.Link{Issuer: asap.AgentURN(r.text(1)), TokenID: r.text(2)})
			return nil
		}, closeArray(keys))
}

const recordColumns = `u.seq, u.id, u.digest, u.octets, u.entry_seq, e.id, e.hash`

func (l *loading) records(n *ledger.Needs) error {
	keys := []byte{'['}
	for _, id := range n.Records {
		keys = append(appendString(keys, id), ',')
	}
	array := closeArray(keys)
	err := l.c.query(`SELECT `+recordColumns+` FROM json_each(?) j CROSS JOIN usage_records u ON u.id = j.value
		LEFT JOIN audit_entries e ON e.seq = u.entry_seq`, func(r *row) error {
		rec, err := readRecord(r)
		l.out.Records = append(l.out.Records, rec)
		return err
	}, array)
	if err != nil || l.out.Counters.Purged == 0 && n.Head {
		return err
	}
	return l.c.query(`SELECT p.id, p.digest, p.entry_seq, e.id, e.hash FROM json_each(?) j CROSS JOIN purged_records p ON p.id = j.value
		LEFT JOIN audit_entries e ON e.seq = p.entry_seq`, func(r *row) error {
		l.out.Records = append(l.out.Records, &ledger.StoredRecord{Record: metering.Record{ID: r.text(0)}, Digest: r.hash(1), Purged: true,
			Entry: ledger.Receipt{Seq: r.int(2), EntryID: r.text(3), Hash: r.hash(4)}})
		return nil
	}, array)
}

func (l *loading) corrections(n *ledger.Needs) error {
	keys := []byte{'['}
	for _, id := range n.Corrections {
		keys = append(appendString(keys, id), ',')
	}
	return l.c.query(`SELECT `+recordColumns+` FROM json_each(?) j CROSS JOIN usage_records u ON u.ref = j.value AND u.ref IS NOT NULL
		LEFT JOIN audit_entries e ON e.seq = u.entry_seq ORDER BY u.seq`, func(r *row) error {
		rec, err := readRecord(r)
		l.out.Corrections = append(l.out.Corrections, rec)
		return err
	}, closeArray(keys))
}

func readRecord(r *row) (*ledger.StoredRecord, error) {
	rec, err := metering.ParseRecord(r.blob(3))
	if err != nil {
		return nil, fmt.Errorf("usage record %d: %w", r.int(0), err)
	}
	rec.Sequence = r.int(0)
	return &ledger.StoredRecord{Record: rec, Digest: r.hash(2), Octets: r.blob(3),
		Entry: ledger.Receipt{Seq: r.int(4), EntryID: r.text(5), Hash: r.hash(6)}}, nil
}

func (l *loading) budgets(n *ledger.Needs) error {
	seen := map[ledger.BudgetKey]bool{}
	for _, k := range n.Budgets {
		if seen[k] {
			continue
		}
		seen[k] = true
		err := l.c.query(`SELECT limit_tasks, limit_nano_usd, used_tasks, held_tasks, used_nano_usd, held_nano_usd, overrun_nano_usd
			FROM budgets WHERE issuer = ? AND token_id = ?`, func(r *row) error {
			b := ledger.Budget{Link: ledger.Link{Issuer: k.Issuer, TokenID: k.TokenID, LimitNanoUSD: r.money(1)},
				UsedTasks: r.int(2), HeldTasks: r.int(3), UsedNanoUSD: metering.NanoUSD(r.int(4)),
				HeldNanoUSD: metering.NanoUSD(r.int(5)), OverrunNanoUSD: metering.NanoUSD(r.int(6))}
			if !r.null(0) {
				b.LimitTasks = new(r.int(0))
			}
			l.out.Budgets = append(l.out.Budgets, b)
			return nil
		}, string(k.Issuer), k.TokenID)
		if err != nil {
			return err
		}
	}
	return nil
}

const sumColumns = `tasks, tokens_in, tokens_out, api_calls, duration_ms, cost_nano_usd, unpriced, unreported`

func (l *loading) rollups(n *ledger.Needs) error {
	seen := map[ledger.RollupKey]bool{} // few, however many ask for them
	for _, k := range n.Rollups {
		if seen[k] {
			continue
		}
		seen[k] = true
		err := l.c.query(`SELECT `+sumColumns+` FROM usage_rollups WHERE span = ? AND start_us = ? AND delegation = ? AND agent = ? AND consumer = ?
			AND outcome = ? AND skill = ?`, func(r *row) error {
			l.out.Rollups = append(l.out.Rollups, ledger.Rollup{Key: k, Sums: r.sums(0)})
			return nil
		}, int64(k.Span), k.StartUS, k.Delegation, string(k.Agent), string(k.Consumer), string(k.Outcome), k.Skill)
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *loading) purgeable(n *ledger.Needs) error {
	count, err := l.c.one(`SELECT count(*) FROM usage_records WHERE timestamp_us < ?`, n.PurgeBefore.UnixMicro())
	l.out.Purgeable, _ = count.(int64)
	return err
}

func (l *loading) prunable(*ledger.Needs) error {
	found, err := l.c.one(`SELECT 1 FROM audit_entries WHERE seq < (SELECT max(min_index) FROM audit_prune) LIMIT 1`)
	l.out.Prunable = found != nil
	return err
}

func (l *loading) entry(n *ledger.Needs) error {
	return l.c.query(`SELECT hash FROM audit_entries WHERE seq = ?`, func(r *row) error {
		l.out.Entry = new(r.hash(0))
		return nil
	}, *n.Entry)
}

func (r *row) money(i int) *metering.NanoUSD {
	if r.null(i) {
		return nil
	}
	return new(metering.NanoUSD(r.int(i)))
}

func (r *row) sums(i int) metering.Sums {
	return metering.Sums{Tasks: r.int(i), TokensIn: r.int(i + 1), TokensOut: r.int(i + 2), APICalls: r.int(i + 3), DurationMS: r.int(i + 4),
		CostNanoUSD: metering.NanoUSD(r.int(i + 5)), Unpriced: r.int(i + 6), Unreported: r.int(i + 7)}
}

func appendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // keys are valid UTF-8, the ledger checks them
	return dst
}

// closeArray ends a JSON array whose elements, if there are any, each end with a
// comma.
func closeArray(b []byte) driver.Value {
	b = append(bytes.TrimSuffix(b, []byte{','}), ']')
	return string(b)
}

func fromUS(us int64) time.Time { return time.UnixMicro(us).UTC() }
