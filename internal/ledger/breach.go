package ledger

import (
	"context"
	"fmt"
	"strconv"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/go-json-experiment/json/jsontext"
)

// Breach is a breach as it is stored.
type Breach struct {
	sla.Breach
	// Incident groups the breaches of one agent that overlap: it is the id of the
	// one that came first.
	Incident string
}

// BreachChange is one thing that happened to a breach: a row of the log that
// notifications are read from.
type BreachChange struct {
	// Seq is the position of the sla.breach entry, and so of the change in the log
	// of notifications.
	Seq    int64
	At     sla.Instant
	Kind   sla.EventKind
	Breach Breach
}

// RecordBreaches makes what happened to breaches durable, each change together
// with its sla.breach entry, and returns those that had not been recorded before,
// in order. The key of a change is the id of the breach and its kind: a breach
// opens, escalates and ends once.
func (l *Ledger) RecordBreaches(ctx context.Context, events []sla.Event) ([]BreachChange, error) {
	if len(events) == 0 {
		return nil, nil
	}
	if len(events) > MaxGroup {
		return nil, fmt.Errorf("%w: %d changes of breaches at once", ErrInvalid, len(events))
	}
	op := &recordBreaches{events: events}
	if err := l.do(ctx, op); err != nil {
		return nil, err
	}
	return op.out, nil
}

type recordBreaches struct {
	events []sla.Event
	out    []BreachChange
}

func (o *recordBreaches) weight() int { return len(o.events) }
func (o *recordBreaches) needs(n *Needs) {
	for i := range o.events {
		n.Breaches = append(n.Breaches, o.events[i].Breach.ID)
		n.OpenBreaches = append(n.OpenBreaches, o.events[i].Breach.Agent)
	}
}

func (o *recordBreaches) more(*book, *Needs) {}

func (o *recordBreaches) apply(b *book) error {
	var p posting
	var changes []BreachChange
	known := map[string]Breach{} // as this operation leaves them
	find := func(id string) (Breach, bool) {
		if v, ok := known[id]; ok {
			return v, true
		}
		v, ok := b.breaches[id]
		return v, ok
	}
	for i := range o.events {
		e := &o.events[i]
		have, exists := find(e.Breach.ID)
		switch {
		case exists && have.ResolvedAt != nil, // it is over, whatever is told of it
			exists && e.Kind == sla.Firing,
			exists && e.Kind == sla.Escalated && have.SeverityMax == sla.Critical:
			continue
		}
		change := BreachChange{At: e.At, Kind: e.Kind, Breach: Breach{e.Breach, have.Incident}}
		if !exists {
			change.Breach.Incident = b.incident(known, &e.Breach)
		}
		if err := b.chain(&p, breachEvent(&change)); err != nil {
			return err
		}
		change.Seq = p.entries[len(p.entries)-1].Seq
		known[e.Breach.ID] = change.Breach
		changes = append(changes, change)
	}
	b.take(&p)
	for id, v := range known {
		b.breaches[id] = v
	}
	b.changes.Breaches = append(b.changes.Breaches, changes...)
	o.out = changes
	return nil
}

// incident is that of the breaches of the agent that are open, or a new one.
func (b *book) incident(known map[string]Breach, breach *sla.Breach) string {
	first := Breach{}
	look := func(v *Breach) {
		if v.Agent == breach.Agent && v.ResolvedAt == nil && (first.ID == "" || v.StartedAt < first.StartedAt || v.StartedAt == first.StartedAt && v.ID < first.ID) {
			first = *v
		}
	}
	for id, v := range b.breaches {
		if _, newer := known[id]; !newer {
			look(&v)
		}
	}
	for _, v := range known {
		look(&v)
	}
	if first.ID == "" {
		return breach.ID
	}
	return first.Incident
}

// breachEvent is the entry of a change: actor is the agent, subject the breach.
// Only its party hears which task opened it, and under which delegation.
func breachEvent(c *BreachChange) audit.Event {
	v := &c.Breach
	text := func(d []byte, name, value string) []byte {
		return append(appendText(append(appendText(d, name), ':'), value), ',')
	}
	d := text([]byte{'{'}, "actual", v.ActualLast)
	if v.CloseReason != "" {
		d = text(d, "close_reason", v.CloseReason)
	}
	if v.Delegation != "" {
		d = text(d, "delegation_id", v.Delegation)
	}
	d = strconv.AppendInt(append(d, `"duration_ms":`...), int64(v.Duration(c.At)), 10)
	d = text(append(d, ','), "event", string(c.Kind))
	d = text(d, "incident_id", v.Incident)
	d = text(d, "objective", string(v.Objective))
	if v.ResolvedAt != nil {
		d = text(d, "resolved_at", v.ResolvedAt.String())
	}
	d = text(d, "severity", string(v.Severity))
	d = text(d, "started_at", v.StartedAt.String())
	if v.TaskID != "" {
		d = text(d, "task_id", v.TaskID)
	}
	d = text(d, "threshold", v.Threshold)
	d = append(appendText(append(d, `"window":`...), v.Window.String()), '}')
	return audit.Event{Type: audit.SLABreach, Actor: v.Agent, Subject: v.ID, Parties: []string{v.Agent}, Details: jsontext.Value(d)}
}
