package ledger

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// MaxLinks is the longest delegation chain (delegation.md, limits of input).
const MaxLinks = 8

// Admit starts a task: its row, its task.started entry, and one task and the
// ceiling reserved on every link of the delegation become durable together, or
// nothing does. A limit that does not allow it is a *LimitError. The envelope
// seen before answers with a Replay; with another digest it is ErrConflict.
func (l *Ledger) Admit(ctx context.Context, a Admission) (Admitted, error) {
	op := &admit{in: a}
	if err := op.check(); err != nil {
		return Admitted{}, err
	}
	op.details = a.appendDetails(nil)
	if err := l.do(ctx, op); err != nil {
		return Admitted{}, err
	}
	return op.out, nil
}

type admit struct {
	in      Admission
	details jsontext.Value
	out     Admitted
}

func (o *admit) weight() int { return 1 }

func (o *admit) check() error {
	a := &o.in
	switch {
	case a.TaskID == "" || a.Consumer == "" || a.EnvelopeID == "" || a.Agent == "":
		return fmt.Errorf("%w: an admission needs task, consumer, envelope and agent", ErrInvalid)
	case a.Ceiling != nil && *a.Ceiling < 0:
		return fmt.Errorf("%w: the ceiling is negative", ErrInvalid)
	case len(a.Links) > MaxLinks:
		return fmt.Errorf("%w: a delegation of %d links", ErrInvalid, len(a.Links))
	}
	if err := storable(string(a.TaskID), string(a.Consumer), string(a.EnvelopeID), string(a.Agent), a.Skill, string(a.ParentTask), a.TraceID); err != nil {
		return err
	}
	for i, link := range a.Links {
		if err := storable(string(link.Issuer), link.TokenID); err != nil {
			return err
		}
		if link.Issuer == "" || link.TokenID == "" || link.LimitTasks != nil && *link.LimitTasks < 0 || link.LimitNanoUSD != nil && *link.LimitNanoUSD < 0 {
			return fmt.Errorf("%w: link %d", ErrInvalid, i)
		}
		for _, before := range a.Links[:i] {
			if before.Key() == link.Key() {
				return fmt.Errorf("%w: link %d repeats a token of the chain", ErrInvalid, i)
			}
		}
	}
	return a.recordable()
}

// recordable refuses a task whose usage record could not be stored, now and not
// when the work is done.
func (a *Admission) recordable() error {
	t := Task{ID: a.TaskID, Agent: a.Agent, Consumer: a.Consumer, Skill: a.Skill, ParentTask: a.ParentTask, TraceID: a.TraceID, Links: a.Links}
	r := metering.Record{ID: "1", Kind: metering.Usage, Outcome: metering.Completed, Evidence: metering.Observed, Timestamp: time.UnixMicro(0).UTC(),
		CostNanoUSD: a.Ceiling}
	t.describe(&r)
	if err := r.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func (o *admit) needs(n *Needs) {
	n.Envelopes = append(n.Envelopes, EnvelopeKey{o.in.Consumer, o.in.EnvelopeID})
	n.Tasks = append(n.Tasks, o.in.TaskID)
	for _, link := range o.in.Links {
		n.Budgets = append(n.Budgets, link.Key())
		n.Revocations = append(n.Revocations, link.Key())
	}
}

func (o *admit) more(*book, *Needs) {}

func (o *admit) apply(b *book) error {
	a := &o.in
	if t := b.envelopes[EnvelopeKey{a.Consumer, a.EnvelopeID}]; t != nil {
		if t.Digest != a.Digest {
			return fmt.Errorf("%w: envelope %s of %s asked for something else before", ErrConflict, a.EnvelopeID, a.Consumer)
		}
		o.out = Admitted{TaskID: t.ID, Receipt: t.Started, Replay: &Replay{State: t.State, Answer: t.Answer, Failure: t.Failure, Receipt: t.End}}
		return nil
	}
	if b.tasks[a.TaskID] != nil {
		return fmt.Errorf("%w: task id %s is taken", ErrConflict, a.TaskID)
	}
	var p posting
	var err error
	if p.budgets, err = b.reserve(a.Links, a.Ceiling); err != nil {
		return err
	}
	if err := b.chain(&p, audit.Event{Type: audit.TaskStarted, Actor: string(a.Consumer), Subject: string(a.TaskID),
		Parties: parties(a.Agent, a.Consumer), Details: o.details}); err != nil {
		return err
	}
	for _, link := range a.Links {
		if !b.budgets[link.Key()].exists { // a token's first use
			b.see(a.Tokens)
			break
		}
	}
	b.take(&p)
	t := &Task{Seq: p.entries[0].Seq, ID: a.TaskID, Consumer: a.Consumer, EnvelopeID: a.EnvelopeID, Digest: a.Digest, Agent: a.Agent,
		Verified: a.Verified, Skill: a.Skill, ParentTask: a.ParentTask, TraceID: a.TraceID, Links: a.Links, Ceiling: a.Ceiling,
		ExpiresAt: a.ExpiresAt, Instance: b.ledger.instance, StartedAt: p.entries[0].Timestamp, Started: p.receipt(0)}
	b.know(t)
	b.changes.NewTasks = append(b.changes.NewTasks, t)
	o.out = Admitted{TaskID: t.ID, Receipt: t.Started, Budgets: p.budgets}
	return nil
}

// appendDetails appends the details of the task.started entry, in canonical
// order. Money is text: it may exceed what a JSON number holds exactly.
func (a *Admission) appendDetails(d []byte) []byte {
	d = appendText(append(d, `{"agent":`...), string(a.Agent))
	if a.Ceiling != nil {
		d = append(a.Ceiling.Append(append(d, `,"ceiling_usd":"`...)), '"')
	}
	d = appendText(append(d, `,"consumer":`...), string(a.Consumer))
	if len(a.Links) > 0 {
		d = append(d, `,"delegation":[`...)
		for i, link := range a.Links {
			if i > 0 {
				d = append(d, ',')
			}
			d = appendText(append(d, `{"id":`...), link.TokenID)
			d = append(appendText(append(d, `,"issuer":`...), string(link.Issuer)), '}')
		}
		d = append(d, ']')
	}
	d = appendText(append(d, `,"envelope_id":`...), string(a.EnvelopeID))
	if a.ParentTask != "" {
		d = appendText(append(d, `,"parent_task_id":`...), string(a.ParentTask))
	}
	if a.Skill != "" {
		d = appendText(append(d, `,"skill":`...), a.Skill)
	}
	if a.TraceID != "" {
		d = appendText(append(d, `,"trace_id":`...), a.TraceID)
	}
	d = strconv.AppendBool(append(d, `,"verified":`...), a.Verified)
	return append(d, '}')
}

// delegation names the token a task runs under.
func (t *Task) delegation() *metering.Delegation {
	if len(t.Links) == 0 {
		return nil
	}
	root, leaf := t.Links[0], t.Links[len(t.Links)-1]
	return &metering.Delegation{Issuer: leaf.Issuer, TokenID: leaf.TokenID, RootIssuer: root.Issuer, RootID: root.TokenID}
}

// parties lists who an entry concerns, sorted and once each.
func parties(agent, consumer asap.AgentURN) []string {
	switch {
	case agent == consumer:
		return []string{string(agent)}
	case agent < consumer:
		return []string{string(agent), string(consumer)}
	default:
		return []string{string(consumer), string(agent)}
	}
}

// storable refuses text that a database would not give back as it is: a key must
// be found again. The protocol layer refuses most of it long before.
func storable(texts ...string) error {
	for _, s := range texts {
		if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%w: text with a NUL or of invalid UTF-8: %.40q", ErrInvalid, s)
		}
	}
	return nil
}

func appendText(dst []byte, s string) []byte {
	// Invalid UTF-8 would be replaced, and so never makes an entry unreadable.
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}
