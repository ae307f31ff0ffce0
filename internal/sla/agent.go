package sla

import (
	"slices"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/sla/sketch"
	"time"
)

// totals are running sums over a lookback.
type totals struct {
	Counts
	sketch sketch.Sketch
}

// agent is everything an engine knows about one agent.
type agent struct {
	id         string
	order      int64 // agents are handled in the order of their registration
	registered Instant
	removed    Instant // never, or when it was
	holds      int32   // for how many milliseconds a probe result holds
	zone       *time.Location

	promise    promise
	slaVersion int64
	turnedOver [windowCount]Instant // until when slow counts are derived from sketches

	observers  observers
	line       timeline
	exclusions []Exclusion
	granted    []interval

	sums [lookbackCount]totals
	open [tierCount]*Bucket
	// closed is the start of the latest bucket that was put away.
	closed [tierCount]Instant
	// lateDropped and clamped are counted since registration.
	lateDropped, clamped int64
	lastTimed            Instant // the latest task with a latency
	lastJudged           Instant // the latest one in the error rate

	trackers [objectiveCount][windowCount]tracker
	// breached are the times during which some promise was broken in the last hour,
	// ended ones, oldest first.
	breached []interval

	cause *Outcome // the task that is being counted
	asOf  Instant  // up to when it knows everything, if it was restored from a newer state than others; else 0
	dirty bool     // something changed since its state was taken last

	emit  func(Event) // tells the engine, and notes what happened in breached
	due   Instant     // when time brings something about; index is its place in the queue
	index int
}

func newAgent(id string, at Instant) *agent {
	a := &agent{id: id, registered: at, removed: never, holds: staleAfter * defaultInterval, zone: time.UTC, lastTimed: at, lastJudged: at, due: never, index: -1}
	a.line.set(at, StateUnknown)
	for o := range a.trackers {
		for w := range a.trackers[o] {
			a.trackers[o][w].paused = -1
		}
	}
	return a
}

// state is the present state.
func (a *agent) state() State { return a.line[len(a.line)-1].state }

func (a *agent) excluded(now Instant) bool { return contains(a.granted, now) }

// settle makes the timeline say what is known at now.
func (a *agent) settle(now Instant, p *Policy) {
	state := a.observers.state(now, p.Quorum)
	if a.excluded(now) {
		state = stateExcluded
	}
	a.line.set(now, state)
}

// rewrite makes the timeline anew from an instant on, after something became
// known late.
func (a *agent) rewrite(from, now Instant, p *Policy) {
	from = max(from, a.registered, a.line[0].at)
	changes := append(a.observers.changes(from, now), from)
	for _, g := range a.granted {
		for _, t := range []Instant{g.start, g.end} {
			if from < t && t <= now {
				changes = append(changes, t)
			}
		}
	}
	slices.Sort(changes)
	if from > a.line[0].at {
		a.line.truncate(from)
	} else {
		a.line = timeline{{at: from, state: stateNone, before: a.line[0].before}}
	}
	for _, t := range slices.Compact(changes) {
		a.settle(t, p)
	}
}

// period is what the timeline says about a window that ends now.
func (a *agent) period(w Window, now Instant) spans { return a.line.between(now-w.width(), now) }

// verdictOn judges one objective in one window at now.
func (a *agent) verdictOn(o int, w Window, now Instant, p *Policy) (v verdict) {
	sum, tell := &a.sums[w], a.trackers[o][w].breach != nil
	switch objectives[o] {
	case Availability:
		v = a.promise.judgeAvailability(a.period(w, now), tell)
		v.unknown = a.state() == StateUnknown
		v.frozen = v.unknown
	case Latency:
		v = a.promise.judgeLatency(&sum.Counts, &sum.sketch, p.MinTasks, tell)
	default:
		v = a.promise.judgeErrors(&sum.Counts, p.MinTasks, tell)
	}
	v.frozen = v.frozen || a.excluded(now)
	return v
}

// lookAt judges what is promised among the objectives from first to last, after
// something other than the passing of time.
func (a *agent) lookAt(first, last int, now Instant, p *Policy, emit func(Event)) {
	for o := first; o <= last; o++ {
		if !a.promise.makes(objectives[o]) {
			continue
		}
		for _, w := range p.Windows {
			a.look(o, w, now, a.verdictOn(o, w, now, p), false, p, emit)
		}
	}
}

func (a *agent) look(o int, w Window, now Instant, v verdict, byTime bool, p *Policy, emit func(Event)) {
	a.trackers[o][w].look(now, v, byTime, &subject{a.id, objectives[o], w, &a.promise, a.slaVersion, p, a.cause}, emit)
}

// noting keeps, of the events that pass, when promises were broken.
func (a *agent) noting(emit func(Event)) func(Event) {
	return func(e Event) {
		if e.Kind == Resolved && e.Breach.Window == LastHour {
			a.breached = append(a.breached, interval{e.Breach.StartedAt, *e.Breach.ResolvedAt})
		}
		emit(e)
	}
}

// step is what time brings about at now, the agent's next instant.
func (a *agent) step(now Instant, p *Policy, emit func(Event)) {
	if a.removed != never {
		return
	}
	if a.promise.makes(Availability) && a.state() != stateExcluded {
		// First what the state until now has led to.
		for _, w := range p.Windows {
			v := a.promise.judgeAvailability(a.period(w, now), a.trackers[0][w].breach != nil)
			v.unknown = a.state() == StateUnknown
			v.frozen = v.unknown
			a.look(0, w, now, v, true, p, emit)
		}
	}
	a.settle(now, p)
	a.lookAt(0, objectiveCount-1, now, p, emit)
	for o := range objectives {
		for _, w := range p.Windows {
			if due := a.expiry(o, w, now); due <= now {
				a.trackers[o][w].end(due, CloseExpired, emit)
			}
		}
	}
	a.line.prune(now - 35*day)
	a.observers.prune(now - p.LateProbes)
	if len(a.breached) > 0 && a.breached[0].end < now-35*day {
		a.breached = slices.Delete(a.breached, 0, 1)
	}
}

// expiry is when a breach is closed because nothing is measured any more.
func (a *agent) expiry(o int, w Window, now Instant) Instant {
	t := &a.trackers[o][w]
	if t.breach == nil || t.paused < 0 || a.excluded(now) {
		return never
	}
	var last Instant
	switch objectives[o] {
	case Availability:
		last = a.line.lastMeasured(now)
	case Latency:
		last = a.lastTimed
	default:
		last = a.lastJudged
	}
	return last + 2*w.width() + overlap(a.granted, last, now)
}

// nextDue is the next instant at which time brings something about.
func (a *agent) nextDue(now Instant, p *Policy) Instant {
	if a.removed != never {
		return never
	}
	next := min(a.observers.nextStale(now), nextBound(a.granted, now))
	for o := range objectives {
		if !a.promise.makes(objectives[o]) {
			continue
		}
		for _, w := range p.Windows {
			next = min(next, a.trackers[o][w].nextTimer(), a.expiry(o, w, now))
		}
	}
	state := a.state()
	if a.promise.makes(Availability) && (state == StateUp || state == StateDown) {
		for _, w := range p.Windows {
			next = min(next, a.nextCrossing(w, now, next))
		}
	}
	return max(next, now+1)
}

// nextCrossing is the first instant after now, up to a limit, at which the
// verdict on availability in a window may differ. In between, the state at both
// ends of the window stays, so that every test changes at most once; where, is
// found by halving.
func (a *agent) nextCrossing(w Window, now, limit Instant) Instant {
	left := now - w.width()
	end := limit
	leaving := stateNone
	i := a.line.after(left)
	if i > 0 {
		leaving = a.line[i-1].state
	}
	if i < len(a.line) {
		end = min(end, a.line[i].at+w.width())
	}
	state := a.state()
	if end == never {
		// A known state goes stale some time, so there always is a limit.
		return never
	}
	base := a.period(w, now)
	slope := state.span(1).minus(leaving.span(1))
	at := func(d Instant) availabilityTests {
		return a.promise.testAvailability(base.plus(slope.times(d))) & testsCrossing
	}
	before := at(0)
	if at(end-now) == before {
		return end
	}
	low, high := Instant(0), end-now
	for high-low > 1 {
		if mid := (low + high) / 2; at(mid) == before {
			low = mid
		} else {
			high = mid
		}
	}
	return now + high
}

// setPromise makes def the promise. It ends the breaches of the objectives about
// which it says something else.
func (a *agent) setPromise(now Instant, def *asap.SLADefinition, p *Policy, emit func(Event)) {
	next := newPromise(def)
	next.version = a.promise.version
	a.slaVersion++
	if !next.same(&a.promise, Latency) {
		next.version++
	}
	old := a.promise
	a.promise = next
	for o, objective := range objectives {
		if next.same(&old, objective) {
			continue
		}
		for w := range a.trackers[o] {
			t := &a.trackers[o][w]
			t.end(now, CloseSLAChanged, emit)
		}
	}
	if next.version != old.version {
		a.recount(now)
	}
	a.lookAt(0, objectiveCount-1, now, p, emit)
}

// recount derives the slow tasks of the past from the sketches, as nothing else
// is left of them.
func (a *agent) recount(now Instant) {
	for l := range a.sums {
		sum := &a.sums[l]
		a.promise.recount(&sum.Counts, &sum.sketch)
		if l < int(windowCount) {
			a.turnedOver[l] = 0
			if sum.Timed > 0 && a.promise.latencyMS != nil {
				tier := tierSpecs[windowSpecs[l].tier]
				a.turnedOver[l] = windowSpecs[l].tier.bucketStart(now) + tier.width + windowSpecs[l].width
			}
		}
	}
	for _, b := range a.open {
		if b != nil {
			a.promise.recount(&b.Counts, &b.Sketch)
			b.SLAVersion = a.promise.version
		}
	}
}

// taken is what a bucket counts as under the promise of today.
func (a *agent) taken(b *Bucket) Counts {
	c := b.Counts
	if b.SLAVersion != a.promise.version {
		a.promise.recount(&c, &b.Sketch)
	}
	return c
}
