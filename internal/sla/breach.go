package sla

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Why breaches are closed.
const (
	CloseRecovered    = "recovered"
	CloseSLAChanged   = "sla_changed"
	CloseAgentRemoved = "agent_removed"
	CloseExpired      = "expired"
)

// A Breach is one time during which a promise was broken, from its opening to its
// end.
type Breach struct {
	// ID is derived from agent, objective, window and start: the same wherever the
	// same events are seen.
	ID        string
	Agent     string
	Objective Objective
	Window    Window
	// Threshold, and the actual values when it opened, at worst and last, are texts
	// as v1.3.0 writes them: "99.5%", "500ms".
	Threshold               string
	ActualOpen, ActualWorst string
	ActualLast              string
	Severity, SeverityMax   Severity
	StartedAt               Instant
	DetectedAt              Instant
	ResolvedAt              *Instant
	CloseReason             string
	// Flaps is how often it came back within ResolveAfter; Flapping, more than four
	// times within an hour.
	Flaps    int
	Flapping bool
	// N and Bad are the tasks it was judged by when it opened, and WilsonPercent the
	// one-sided lower 95 % bound of the bad share. Nil for availability.
	N, Bad        int64
	WilsonPercent *float64
	SLAVersion    int64
	// TaskID is the task whose end opened it, Delegation the token under which that
	// ran; empty if it was no task, or ran under none.
	TaskID     string `json:",omitzero"`
	Delegation string `json:",omitzero"`
}

// breachID is the id of a breach.
func breachID(agent string, o Objective, w Window, started Instant) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "asap-sla/1\n%s\n%s\n%s\n%d", agent, o, w, started))
	return "breach_" + hex.EncodeToString(sum[:16])
}

// Duration is how long it lasted, or has lasted by now.
func (b *Breach) Duration(now Instant) Seconds {
	if b.ResolvedAt != nil {
		now = *b.ResolvedAt
	}
	return Seconds(now - b.StartedAt)
}

// EventKind is what happened to a breach.
type EventKind string

// The kinds of events.
const (
	Firing    EventKind = "firing"
	Escalated EventKind = "escalated"
	Resolved  EventKind = "resolved"
)

// The kinds of notices: what is worth telling of an open breach without being a
// change of it. They are told through Engine.Notice and are not events.
const (
	// Stale: the state of the agent is not known any more, so that the breach
	// stands still.
	Stale EventKind = "stale"
	// Digest: the breach flaps. It is told at most once in 15 minutes, for all the
	// times that it came back since.
	Digest EventKind = "digest"
)

// digestEvery is how often a flapping breach is told of.
const digestEvery = 15 * minute

// An Event is a change of a breach, with the breach as it was then.
type Event struct {
	At     Instant
	Kind   EventKind
	Breach Breach
}

// phase is where a tracker stands.
type phase uint8

const (
	phaseNoData phase = iota
	phaseOK
	phasePending
	phaseFiring
	phaseResolving
)

// String is the name of the phase.
func (p phase) String() string {
	return [...]string{"no_data", "ok", "pending", "firing", "resolving"}[p]
}

// tracker follows one objective of one agent in one window.
type tracker struct {
	phase phase
	// steady tells that the last look was a regular one: a change seen by the next
	// came about by time passing, and can be dated between the two.
	steady bool
	// paused is since when the timers stand still, -1 if they run.
	paused   Instant
	since    Instant // pending: start of the breach to be
	due      Instant // pending: when it fires; resolving: when it ends
	returned Instant // resolving: when the promise was kept again
	breach   *Breach // firing and resolving
	restless *restless
}

// restless is what few breaches have: that they came back, or stood still.
type restless struct {
	flapped  []Instant
	digested Instant // when it was last told to be flapping
	stale    bool    // it was told that the agent's state is not known
}

// rests is what the breach has of that, or nothing.
func (t *tracker) rests() restless {
	if t.restless == nil {
		return restless{}
	}
	return *t.restless
}

// unrest is what the breach has of that, to be changed.
func (t *tracker) unrest() *restless {
	if t.restless == nil {
		t.restless = &restless{}
	}
	return t.restless
}

// subject is what a tracker is about, and how it is to judge.
type subject struct {
	agent     string
	objective Objective
	window    Window
	promise   *promise
	version   int64
	policy    *Policy
	cause     *Outcome // the task that has just ended; nil for something else
}

// look moves the tracker on to now. byTime tells that nothing but the passing of
// time has happened since the last look, and that the value moves without jumps.
func (t *tracker) look(now Instant, v verdict, byTime bool, sub *subject, emit func(Event)) {
	if v.frozen {
		if v.unknown && t.breach != nil && !t.rests().stale {
			t.unrest().stale = true
			emit(Event{now, Stale, *t.breach})
		}
		t.pause(now)
		t.steady = false
		return
	}
	if !v.enough {
		t.steady = false
		switch t.phase {
		case phaseFiring, phaseResolving:
			t.pause(now)
		default:
			*t = tracker{phase: phaseNoData, paused: -1}
		}
		return
	}
	t.resume(now)
	if t.restless != nil {
		t.restless.stale = false
	}
	crossed := now // when the value crossed the threshold, if it did
	if byTime && t.steady {
		crossed = now - 1
	}
	t.steady = true
	if t.breach != nil && v.actual != "" {
		t.breach.ActualLast = v.actual
	}
	if t.phase == phaseResolving && t.due <= crossed {
		t.close(t.due, t.returned, CloseRecovered, emit)
	}
	switch t.phase {
	case phaseNoData, phaseOK:
		t.phase = phaseOK
		if v.breached {
			t.phase, t.since, t.due = phasePending, crossed, crossed+sub.policy.For
		}
	case phasePending:
		if !v.breached {
			*t = tracker{phase: phaseOK, paused: -1, steady: true}
		}
	case phaseFiring:
		if !v.breached {
			t.phase, t.returned, t.due = phaseResolving, now, now+sub.policy.ResolveAfter
		} else {
			t.escalate(crossed, now, v, emit)
		}
	case phaseResolving:
		if v.breached {
			t.phase = phaseFiring
			t.flap(crossed, emit)
			t.escalate(crossed, now, v, emit)
		}
	}
	if t.phase == phasePending && t.due <= now {
		t.open(v, sub, emit)
	}
	if t.phase == phaseResolving && t.due <= now {
		t.close(t.due, t.returned, CloseRecovered, emit)
	}
}

func (t *tracker) pause(now Instant) {
	if t.paused < 0 && t.phase >= phasePending {
		t.paused = now
	}
}

func (t *tracker) resume(now Instant) {
	if t.paused >= 0 {
		t.due += now - t.paused
		t.paused = -1
	}
}

func (t *tracker) open(v verdict, sub *subject, emit func(Event)) {
	severity := Warning
	if v.critical {
		severity = Critical
	}
	t.phase = phaseFiring
	t.restless = nil
	t.breach = &Breach{
		ID:    breachID(sub.agent, sub.objective, sub.window, t.since),
		Agent: sub.agent, Objective: sub.objective, Window: sub.window, Threshold: sub.promise.threshold(sub.objective),
		ActualOpen: v.actual, ActualWorst: v.actual, ActualLast: v.actual,
		Severity: severity, SeverityMax: severity,
		StartedAt: t.since, DetectedAt: t.due,
		N: v.n, Bad: v.bad, SLAVersion: sub.version,
	}
	if sub.cause != nil {
		t.breach.TaskID, t.breach.Delegation = sub.cause.TaskID, sub.cause.Delegation
	}
	if sub.objective != Availability && v.n > 0 {
		t.breach.WilsonPercent = shown(100 * max(0, wilsonLower(share(v.bad, v.n), v.n, z95OneSided)))
	}
	emit(Event{t.due, Firing, *t.breach})
}

// escalate keeps severity and worst value up to date; reaching critical for the
// first time is an event.
func (t *tracker) escalate(crossed, now Instant, v verdict, emit func(Event)) {
	b := t.breach
	if worse(b.Objective, v.actual, b.ActualWorst) {
		b.ActualWorst = v.actual
	}
	if !v.critical {
		b.Severity = Warning
		return
	}
	b.Severity = Critical
	if b.SeverityMax == Critical {
		return
	}
	b.SeverityMax = Critical
	if v.exact {
		crossed = now
	}
	emit(Event{crossed, Escalated, *b})
}

func (t *tracker) flap(at Instant, emit func(Event)) {
	t.breach.Flaps++
	r := t.unrest()
	r.flapped = append(r.flapped, at)
	if len(r.flapped) > 5 {
		r.flapped = r.flapped[1:]
	}
	t.breach.Flapping = len(r.flapped) == 5 && r.flapped[4]-r.flapped[0] <= hour
	if t.breach.Flapping && (r.digested == 0 || at-r.digested >= digestEvery) {
		r.digested = at
		emit(Event{at, Digest, *t.breach})
	}
}

// close ends the breach, if there is one, and forgets whatever was about to happen.
func (t *tracker) close(at, resolved Instant, reason string, emit func(Event)) {
	b := t.breach
	*t = tracker{phase: phaseOK, paused: -1, steady: t.steady}
	if b == nil {
		return
	}
	b.ResolvedAt, b.CloseReason = &resolved, reason
	b.Severity = b.SeverityMax
	emit(Event{at, Resolved, *b})
}

// end closes the breach for a reason other than recovery. One that was resolving
// had ended when the promise was kept again.
func (t *tracker) end(at Instant, reason string, emit func(Event)) {
	resolved := at
	if t.phase == phaseResolving {
		resolved = t.returned
	}
	t.close(at, resolved, reason, emit)
	t.phase, t.steady = phaseNoData, false
}

// nextTimer is when the tracker must be looked at again if nothing happens.
func (t *tracker) nextTimer() Instant {
	if t.paused >= 0 || (t.phase != phasePending && t.phase != phaseResolving) {
		return never
	}
	return t.due
}

// worse compares two actual values of one objective, as texts of numbers.
func worse(o Objective, a, b string) bool {
	x, y := leadingNumber(a), leadingNumber(b)
	if o == Availability {
		return x < y
	}
	return x > y
}
