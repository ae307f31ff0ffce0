package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// FailureIndeterminate is the code of a task whose node died while it ran:
// nobody knows how far it came.
const FailureIndeterminate = "task_indeterminate"

// Settle ends a task: its usage record, the rollups, the task.completed or
// task.failed and usage.recorded entries, the charge on every link of its
// delegation and the answer for retries become durable together. The record is
// priced here. Settling again alike returns the first receipt.
func (l *Ledger) Settle(ctx context.Context, s Settlement) (Posted, error) {
	if s.TaskID == "" || s.Record.TaskID != "" && s.Record.TaskID != s.TaskID {
		return Posted{}, fmt.Errorf("%w: a settlement is of one task", ErrInvalid)
	}
	if err := storable(string(s.TaskID), s.Record.ID, s.Failure); err != nil {
		return Posted{}, err
	}
	op := &settle{in: s, digest: s.digest()}
	l.prepare(op)
	if err := l.do(ctx, op); err != nil {
		return Posted{}, err
	}
	return op.out, nil
}

// settle also is the operation of recovery and expiry: with lost set, the record
// is made of what the admission said, and the ceiling is charged.
type settle struct {
	in     Settlement
	lost   bool
	digest [32]byte
	record *StoredRecord
	row    [32]byte
	list   *metering.PriceList
	out    Posted
}

func (o *settle) weight() int { return 1 }

// digest identifies what the caller said, without what is filled in later.
func (s *Settlement) digest() [32]byte {
	r := s.Record
	r.ID = ""
	content := r.ContentDigest()
	h := sha256.New()
	h.Write(content[:])
	fmt.Fprintf(h, "%s\n%s\n", s.Record.ID, s.Failure)
	h.Write(s.Answer)
	return [32]byte(h.Sum(nil))
}

// prepare does, on the caller's goroutine, what needs nothing of the ledger.
func (l *Ledger) prepare(o *settle) {
	o.record = &StoredRecord{Record: o.in.Record, Digest: o.digest}
	r := &o.record.Record
	now := l.Now().UTC().Truncate(time.Microsecond)
	r.TaskID, r.Kind, r.Ref, r.Sequence = o.in.TaskID, metering.Usage, "", 0
	if r.ID == "" {
		r.ID = l.ids.New(now)
	}
	if r.Timestamp.IsZero() {
		r.Timestamp = now
	}
	r.Timestamp = r.Timestamp.UTC().Truncate(time.Microsecond)
	r.ReceivedAt = now
	if r.Agent != "" {
		o.list = l.price(r)
	}
	o.row = o.record.seal()
}

// price sets the cost of a record and returns the list that says so. A cost
// without a list is unknown, not zero (I8).
func (l *Ledger) price(r *metering.Record) *metering.PriceList {
	r.CostNanoUSD, r.PriceList = nil, ""
	list := l.prices.Load().At(r.Agent, r.Timestamp)
	if list == nil {
		return nil
	}
	cost, priced, err := list.Price(r)
	if err != nil || !priced {
		return nil
	}
	r.CostNanoUSD, r.PriceList = &cost, list.Hash()
	return list
}

func (o *settle) needs(n *Needs) {
	n.Tasks = append(n.Tasks, o.in.TaskID)
	if o.record != nil {
		n.Records = append(n.Records, o.record.Record.ID)
	}
}

func (o *settle) more(b *book, n *Needs) {
	t := b.tasks[o.in.TaskID]
	switch {
	case t == nil:
		return
	case t.State == Expired && t.EnvelopeID != "" && !o.lost: // with its answer
		n.Envelopes = append(n.Envelopes, EnvelopeKey{t.Consumer, t.EnvelopeID})
		return
	case t.State != Held:
		if t.RecordID != "" {
			n.Records = append(n.Records, t.RecordID)
		}
		return
	}
	for _, link := range t.Links {
		n.Budgets = append(n.Budgets, link.Key())
	}
	r := metering.Record{}
	if o.record != nil {
		r = o.record.Record
	} else {
		r.Outcome, r.Timestamp = metering.Failed, b.now
	}
	t.describe(&r)
	n.Rollups = appendRollupKeys(n.Rollups, &r)
}

// describe fills what the admission said into a record and tells whether that
// changed it.
func (t *Task) describe(r *metering.Record) (changed bool) {
	changed = fill(&r.TaskID, t.ID)
	changed = fill(&r.Agent, t.Agent) || changed
	changed = fill(&r.Consumer, t.Consumer) || changed
	changed = fill(&r.Skill, t.Skill) || changed
	changed = fill(&r.ParentTask, t.ParentTask) || changed
	changed = fill(&r.TraceID, t.TraceID) || changed
	changed = fill(&r.Verified, t.Verified) || changed
	if r.Delegation == nil && len(t.Links) > 0 {
		r.Delegation, changed = t.delegation(), true
	}
	return changed
}

func fill[T comparable](to *T, from T) bool {
	var zero T
	if *to != zero || from == zero {
		return false
	}
	*to = from
	return true
}

// fits tells whether a described record is one of this task.
func (t *Task) fits(r *metering.Record) bool {
	d := t.delegation()
	return r.Agent == t.Agent && r.Consumer == t.Consumer && r.Skill == t.Skill && r.Verified == t.Verified &&
		r.ParentTask == t.ParentTask && r.TraceID == t.TraceID && equal(d, r.Delegation)
}

func (o *settle) apply(b *book) error {
	t := b.tasks[o.in.TaskID]
	switch {
	case t == nil:
		return fmt.Errorf("%w: %s", ErrUnknownTask, o.in.TaskID)
	case t.State == Held:
	case o.lost:
		return fmt.Errorf("%w: %s", ErrTaskEnded, t.ID)
	case t.State != Settled:
		return &TaskEndedError{TaskID: t.ID, As: Replay{State: t.State, Answer: t.Answer, Failure: t.Failure, Receipt: t.End}}
	case t.Settlement != o.digest:
		return fmt.Errorf("%w: task %s was settled otherwise", ErrConflict, t.ID)
	default:
		o.out = Posted{Receipt: t.End, Replay: true}
		if r := b.records[t.RecordID]; r != nil {
			o.out.Record = r.Record
		}
		return nil
	}
	if o.lost {
		b.lose(o, t)
	}
	rec := o.record
	r := &rec.Record
	if t.describe(r) {
		if r.CostNanoUSD == nil && !o.lost {
			o.list = b.ledger.price(r)
		}
		o.row = rec.seal()
	}
	if !t.fits(r) {
		return fmt.Errorf("%w: the record of task %s is not what was admitted", ErrInvalid, t.ID)
	}
	if !o.lost {
		if err := storableRecord(r); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if b.records[r.ID] != nil {
		return fmt.Errorf("%w: %s", errRecordConflict, r.ID)
	}
	if t.Ceiling != nil && r.CostNanoUSD != nil && *r.CostNanoUSD > *t.Ceiling {
		r.Overrun = true
		o.row = rec.seal()
	}
	// An unknown cost is charged like the most it can have been.
	charged := r.CostNanoUSD
	if charged == nil {
		charged = t.Ceiling
	}
	var p posting
	for _, link := range t.Links {
		var cost metering.NanoUSD
		if charged != nil {
			cost = *charged
		}
		p.budgets = append(p.budgets, b.budget(link).value.settle(t.Ceiling, cost))
	}
	if err := b.tally(&p, r); err != nil {
		return err
	}
	ended := audit.Event{Type: audit.TaskCompleted, Actor: string(t.Agent), Subject: string(t.ID), Parties: parties(t.Agent, t.Consumer)}
	if r.Outcome != metering.Completed {
		ended.Type = audit.TaskFailed
	}
	ended.Details = appendEnded(nil, r, o.in.Failure, charged)
	if err := b.chain(&p, ended, usageEvent(audit.UsageRecorded, string(t.Agent), r, o.row)); err != nil {
		return err
	}
	b.take(&p)
	b.keep(o.list, r.Agent)
	rec.Entry, rec.Task = p.receipt(1), t
	b.store(rec)
	t.State, t.EndedAt, t.End = Settled, p.entries[0].Timestamp, p.receipt(0)
	if o.lost {
		t.State = Expired
	}
	t.RecordID, t.Settlement, t.Failure, t.Charged, t.Answer = r.ID, o.digest, o.in.Failure, charged, o.in.Answer
	b.changes.EndedTasks = append(b.changes.EndedTasks, t)
	o.out = Posted{Receipt: t.End, Record: *r, Budgets: p.budgets}
	return nil
}

// lose makes the settlement of a task that nobody can tell the end of: failed,
// and charged its ceiling. Without a ceiling the cost stays unknown.
func (b *book) lose(o *settle, t *Task) {
	l := b.ledger
	r := metering.Record{ID: l.ids.New(b.now), Kind: metering.Usage, Outcome: metering.Failed, Evidence: metering.Estimated,
		Indeterminate: true, Timestamp: b.now, ReceivedAt: b.now}
	t.describe(&r)
	if t.Ceiling != nil {
		ceiling := *t.Ceiling
		r.CostNanoUSD = &ceiling
		if o.list = l.prices.Load().At(t.Agent, b.now); o.list != nil {
			r.PriceList = o.list.Hash()
		}
	}
	o.in.Failure = FailureIndeterminate
	if l.opts.LostAnswer != nil {
		o.in.Answer = l.opts.LostAnswer(t)
	}
	o.record = &StoredRecord{Record: r, Digest: r.ContentDigest()}
	o.digest = o.record.Digest
	o.row = o.record.seal()
}

// Release gives back the hold of a task that surely did not start. Its envelope
// id may be used again. Releasing twice returns the first receipt.
func (l *Ledger) Release(ctx context.Context, task asap.TaskID, reason string) (Receipt, error) {
	if err := storable(string(task), reason); err != nil {
		return Receipt{}, err
	}
	op := &release{task: task, reason: reason}
	if err := l.do(ctx, op); err != nil {
		return Receipt{}, err
	}
	return op.out, nil
}

// TaskReleased is the type of the entry of a release: actor is the agent,
// subject the task.
const TaskReleased = "task.released"

type release struct {
	task   asap.TaskID
	reason string
	out    Receipt
}

func (o *release) weight() int    { return 1 }
func (o *release) needs(n *Needs) { n.Tasks = append(n.Tasks, o.task) }
func (o *release) more(b *book, n *Needs) {
	if t := b.tasks[o.task]; t != nil && t.State == Held {
		for _, link := range t.Links {
			n.Budgets = append(n.Budgets, link.Key())
		}
	}
}

func (o *release) apply(b *book) error {
	t := b.tasks[o.task]
	switch {
	case t == nil:
		return fmt.Errorf("%w: %s", ErrUnknownTask, o.task)
	case t.State == Released:
		o.out = t.End
		return nil
	case t.State != Held:
		return fmt.Errorf("%w: %s was %s", ErrTaskEnded, t.ID, t.State)
	}
	var p posting
	for _, link := range t.Links {
		p.budgets = append(p.budgets, b.budget(link).value.release(t.Ceiling))
	}
	details := append(appendText([]byte(`{"reason":`), o.reason), '}')
	if err := b.chain(&p, audit.Event{Type: TaskReleased, Actor: string(t.Agent), Subject: string(t.ID),
		Parties: parties(t.Agent, t.Consumer), Details: details}); err != nil {
		return err
	}
	b.take(&p)
	delete(b.envelopes, EnvelopeKey{t.Consumer, t.EnvelopeID})
	t.State, t.EnvelopeID, t.EndedAt, t.End, t.Failure = Released, "", p.entries[0].Timestamp, p.receipt(0), o.reason
	b.changes.EndedTasks = append(b.changes.EndedTasks, t)
	o.out = t.End
	return nil
}

// appendEnded appends the details of a task.completed or task.failed entry.
func appendEnded(d []byte, r *metering.Record, failure string, charged *metering.NanoUSD) []byte {
	d = append(d, '{')
	if charged != nil {
		d = append(charged.Append(append(d, `"charged_usd":"`...)), `",`...)
	}
	if r.DurationMS != nil {
		d = append(strconv.AppendInt(append(d, `"duration_ms":`...), *r.DurationMS, 10), ',')
	}
	if failure != "" {
		d = append(appendText(append(d, `"failure":`...), failure), ',')
	}
	if r.Indeterminate {
		d = append(d, `"indeterminate":true,`...)
	}
	d = appendText(append(d, `"outcome":`...), string(r.Outcome))
	if r.Overrun {
		d = append(d, `,"overrun":true`...)
	}
	d = appendText(append(d, `,"record_id":`...), r.ID)
	return append(d, '}')
}

// usageEvent is the entry of a record. Its details are the record without
// trace and signature: [metering.ParseRecord] reads them, and all totals can be
// computed from the log alone (I3). row_hash is that of the stored record.
func usageEvent(kind, actor string, r *metering.Record, row [32]byte) audit.Event {
	lean := *r
	lean.Signature, lean.PublicKey, lean.TraceID, lean.ParentTask = nil, nil, "", ""
	return audit.Event{Type: kind, Actor: actor, Subject: string(r.TaskID), Parties: parties(r.Agent, r.Consumer),
		RowHash: &row, Details: jsontext.Value(lean.AppendCanonical(nil))}
}
