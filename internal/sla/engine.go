package sla

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Engine judges agents. Every method takes the instant at which something became
// known, first brings about what the time up to then brings, and returns the
// events of both in order. Instants must not go backwards.
//
// Errors that wrap ErrRefused are about the event at hand and leave the engine as
// it was, but for the time. Any other comes from Buckets, and leaves it of no use:
// restore a new one. An engine is not safe for concurrent use; agents do not
// interact, so a node may spread them over several.
type Engine struct {
	// Notice is told of notices, while the engine is at work. Nil for nobody.
	Notice func(Event)

	policy  Policy
	buckets Buckets
	now     Instant
	tick    Instant // the next minute at which buckets close and leave
	rows    Instant // until when there are buckets that will leave a window
	agents  map[string]*agent
	queue   queue
	touched map[*agent]struct{} // agents with open buckets
	seen    seenTasks
	orders  int64
	events  []Event
	changed []*agent // those that are dirty, in the order in which they became so
}

// NewEngine returns an engine without agents.
func NewEngine(policy Policy, buckets Buckets) (*Engine, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	policy.Windows = slices.Clone(policy.Windows)
	slices.Sort(policy.Windows)
	return &Engine{
		policy:  policy,
		buckets: buckets,
		now:     -never,
		rows:    -never,
		agents:  map[string]*agent{},
		touched: map[*agent]struct{}{},
		seen:    newSeenTasks(),
	}, nil
}

// Registration is what an engine is told about an agent.
type Registration struct {
	Agent string
	// ProbeInterval is how often it is probed; 0 means every 30 s. A result holds
	// for three intervals, or for TTL if that is longer.
	ProbeInterval time.Duration
	TTL           time.Duration
	// Zone is what its business hours are told in; nil means UTC.
	Zone *time.Location
}

// Register starts to track an agent, or changes what was said about it.
func (e *Engine) Register(now Instant, r Registration) ([]Event, error) {
	if r.Agent == "" || r.ProbeInterval < 0 || r.TTL < 0 {
		return nil, refusedf("a registration needs an agent, and intervals that are not negative")
	}
	return e.after(now, func() error {
		a := e.agents[r.Agent]
		if a == nil || a.removed != never {
			e.orders++
			a = newAgent(r.Agent, now)
			a.order = e.orders
			a.emit = a.noting(e.emit)
			e.agents[r.Agent] = a
		}
		e.mark(a)
		interval := Instant(r.ProbeInterval.Milliseconds())
		if interval == 0 {
			interval = defaultInterval
		}
		a.holds = int32(min(max(staleAfter*interval, Instant(r.TTL.Milliseconds())), maxHold))
		a.zone = time.UTC
		if r.Zone != nil {
			a.zone = r.Zone
		}
		e.schedule(a)
		return nil
	})
}

// Promise makes def what an agent promises from now on; nil promises nothing.
func (e *Engine) Promise(now Instant, agentID string, def *asap.SLADefinition) ([]Event, error) {
	return e.withAgent(now, agentID, func(a *agent) error {
		a.setPromise(now, def, &e.policy, a.emit)
		return nil
	})
}

// Remove stops to track an agent and ends its breaches. What was measured stays
// to be asked for.
func (e *Engine) Remove(now Instant, agentID string) ([]Event, error) {
	return e.withAgent(now, agentID, func(a *agent) error {
		for o := range a.trackers {
			for w := range a.trackers[o] {
				a.trackers[o][w].end(now, CloseAgentRemoved, a.emit)
			}
		}
		a.line.set(now, stateNone)
		a.removed = now
		delete(e.touched, a)
		return e.closeAll(a)
	})
}

// Probe is one result of asking an agent whether it is up.
type Probe struct {
	Agent string
	At    Instant
	State State // up, down, or unknown if the prober itself failed
	// Observer names the prober; several vote.
	Observer string
}

// Observe takes the result of a probe.
func (e *Engine) Observe(now Instant, p Probe) ([]Event, error) {
	return e.withAgent(now, p.Agent, func(a *agent) error {
		switch {
		case p.State > StateDown:
			return refusedf("state must be one of: up, down, unknown")
		case p.At > now+maxFuture:
			return refusedf("the probe lies %s in the future", time.Duration(p.At-now)*time.Millisecond)
		case p.At < a.registered:
			return refusedf("the agent was registered only at %s", a.registered)
		case p.At < now-e.policy.LateProbes:
			a.lateDropped++
			return nil
		}
		at := min(p.At, now)
		a.observers.named(p.Observer).insert(Result{at, a.holds, p.State})
		if at < now {
			a.rewrite(at, now, &e.policy)
		} else {
			a.settle(now, &e.policy)
		}
		a.observers.prune(now - e.policy.LateProbes)
		if p.State != StateUnknown {
			if err := e.count(a, at, Counts{Probes: 1}, nil, TierHour); err != nil {
				return err
			}
		}
		a.lookAt(0, 0, now, &e.policy, a.emit)
		return nil
	})
}

// Ingest takes the end of a task.
func (e *Engine) Ingest(now Instant, o Outcome) ([]Event, error) {
	return e.withAgent(now, o.Agent, func(a *agent) error {
		if err := o.check(); err != nil {
			return err
		}
		switch {
		case o.At > now+maxFuture:
			return refusedf("the task ends %s in the future", time.Duration(o.At-now)*time.Millisecond)
		case o.At < a.registered:
			return refusedf("the agent was registered only at %s", a.registered)
		case o.At < now-e.policy.LateTasks:
			a.lateDropped++
			return nil
		case o.TaskID != "" && !e.seen.add(now, &o):
			return nil
		}
		at := min(o.At, now)
		c, latency := o.counts(&a.promise, contains(a.granted, at))
		if TierMinute.bucketStart(at) < TierMinute.bucketStart(now) {
			c.Late = 1
		}
		if latency != nil {
			a.lastTimed = max(a.lastTimed, at)
			if *o.LatencyMS > *latency {
				a.clamped++
			}
		}
		if c.judged() > 0 {
			a.lastJudged = max(a.lastJudged, at)
		}
		if err := e.count(a, at, c, latency, TierMinute); err != nil {
			return err
		}
		a.cause = &o
		a.lookAt(1, 2, now, &e.policy, a.emit)
		a.cause = nil
		return nil
	})
}

// Saw notes that a task has ended, for an agent whose state knows that already.
func (e *Engine) Saw(now Instant, o Outcome) {
	if o.TaskID != "" {
		e.seen.add(now, &o)
	}
}

// Exclude takes planned maintenance. Without notice it is refused unless it is
// marked as retroactive, which is for operators.
func (e *Engine) Exclude(now Instant, agentID string, x Exclusion) ([]Event, error) {
	return e.withAgent(now, agentID, func(a *agent) error {
		if err := e.policy.Refuses(&x); err != nil {
			return err
		}
		if x.ID != "" && slices.ContainsFunc(a.exclusions, func(old Exclusion) bool { return old.ID == x.ID }) {
			return nil
		}
		// Maintenance that no window reaches any more is forgotten here.
		a.exclusions = slices.DeleteFunc(a.exclusions, func(old Exclusion) bool { return old.End < now-2*capSpan })
		a.exclusions = append(a.exclusions, x)
		a.granted = granted(a.exclusions, e.policy.MaintenanceCap)
		if x.Start < now {
			a.rewrite(x.Start, now, &e.policy)
		} else {
			a.settle(now, &e.policy)
		}
		a.lookAt(0, objectiveCount-1, now, &e.policy, a.emit)
		return nil
	})
}

// Refuses says what the rules have against planned maintenance that becomes known
// now; nil if nothing. Without notice it is refused unless it is marked as
// retroactive, which is for operators.
func (p *Policy) Refuses(x *Exclusion) error {
	switch {
	case x.End <= x.Start:
		return refusedf("maintenance must end after it starts")
	case !x.Retroactive && (x.AnnouncedAt >= x.Start || x.Start-x.AnnouncedAt < p.Notice):
		return refusedf("maintenance must be announced %s before it starts", time.Duration(p.Notice)*time.Millisecond)
	}
	return nil
}

// Unexclude takes planned maintenance back, by its id: what of it has not begun is
// not excluded. What has been, stays so.
func (e *Engine) Unexclude(now Instant, agentID, id string) ([]Event, error) {
	return e.withAgent(now, agentID, func(a *agent) error {
		i := slices.IndexFunc(a.exclusions, func(x Exclusion) bool { return x.ID == id })
		switch {
		case i < 0:
			return refusedf("there is no such maintenance")
		case a.exclusions[i].End <= now:
			return refusedf("the maintenance is over")
		case a.exclusions[i].Start >= now:
			a.exclusions = slices.Delete(a.exclusions, i, i+1)
		default:
			a.exclusions[i].End = now
		}
		a.granted = granted(a.exclusions, e.policy.MaintenanceCap)
		a.settle(now, &e.policy)
		a.lookAt(0, objectiveCount-1, now, &e.policy, a.emit)
		return nil
	})
}

// Maintenance is what is planned for an agent, and what was as far back as it
// matters, by its start; ok is false for one that is not known. The policy's cap
// may exclude less: that is what excluded returns for a time.
func (e *Engine) Maintenance(agentID string) (all []Exclusion, excluded func(from, to Instant) Instant, ok bool) {
	a := e.agents[agentID]
	if a == nil {
		return nil, nil, false
	}
	all = slices.Clone(a.exclusions)
	slices.SortStableFunc(all, func(x, y Exclusion) int { return cmp.Compare(x.Start, y.Start) })
	given := slices.Clone(a.granted)
	return all, func(from, to Instant) Instant { return overlap(given, from, to) }, true
}

// Advance brings about what time brings until now.
func (e *Engine) Advance(now Instant) ([]Event, error) {
	return e.after(now, func() error { return nil })
}

// NextDue is the instant until which nothing happens unless an event comes: when
// Advance should be called at the latest. ok is false if there is none.
func (e *Engine) NextDue() (at Instant, ok bool) {
	at = never
	if len(e.queue) > 0 {
		at = e.queue[0].due
	}
	if e.tick <= e.rows {
		at = min(at, e.tick)
	}
	return at, at != never
}

// mark notes that what is known of a changes.
func (e *Engine) mark(a *agent) {
	if !a.dirty {
		a.dirty = true
		e.changed = append(e.changed, a)
	}
}

func (e *Engine) emit(ev Event) {
	switch {
	case ev.Kind != Stale && ev.Kind != Digest:
		e.events = append(e.events, ev)
	case e.Notice != nil:
		e.Notice(ev)
	}
}

// withAgent advances to now and then does something to a known agent.
func (e *Engine) withAgent(now Instant, id string, do func(a *agent) error) ([]Event, error) {
	return e.after(now, func() error {
		a := e.agents[id]
		if a == nil {
			return refusedf("agent %.200q is not registered", id)
		}
		if a.removed != never {
			return nil // what was under way when it went
		}
		e.mark(a)
		err := do(a)
		e.schedule(a)
		return err
	})
}

// after advances to now, then does something, and returns the events of both.
func (e *Engine) after(now Instant, do func() error) ([]Event, error) {
	if now < e.now {
		return nil, refusedf("time goes backwards from %s to %s", e.now, now)
	}
	e.events = nil
	if err := e.advance(now); err != nil {
		return nil, err
	}
	// Crossings that lie between two milliseconds are dated to the first of them.
	slices.SortStableFunc(e.events, func(x, y Event) int { return cmp.Compare(x.At, y.At) })
	err := do()
	return e.events, err
}

func (e *Engine) advance(now Instant) error {
	for {
		at, ok := e.NextDue()
		if !ok || at > now {
			break
		}
		if at == e.tick {
			if err := e.rotate(at); err != nil {
				return err
			}
			e.tick += minute
		}
		for len(e.queue) > 0 && e.queue[0].due <= at {
			a := e.queue[0]
			if at > a.asOf { // else it has been through that
				e.mark(a)
				a.step(at, &e.policy, a.emit)
			}
			e.reschedule(a, at)
		}
	}
	e.now = now
	if e.tick <= now {
		e.tick = TierMinute.bucketStart(now) + minute
		if e.tick == now {
			e.tick += minute
		}
	}
	return nil
}

func (e *Engine) schedule(a *agent) { e.reschedule(a, e.now) }

func (e *Engine) reschedule(a *agent, now Instant) {
	e.setDue(a, a.nextDue(max(now, a.asOf), &e.policy))
}

func (e *Engine) setDue(a *agent, due Instant) {
	a.due = due
	switch {
	case a.index < 0 && due != never:
		heap.Push(&e.queue, a)
	case a.index >= 0 && due == never:
		heap.Remove(&e.queue, a.index)
	case a.index >= 0:
		heap.Fix(&e.queue, a.index)
	}
}

// queue holds agents by when they are due, those due together by registration.
type queue []*agent

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].due < q[j].due || (q[i].due == q[j].due && q[i].order < q[j].order)
}
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for container/heap.
func (q *queue) Push(x any) {
	a := x.(*agent)
	a.index = len(*q)
	*q = append(*q, a)
}

// Pop is for container/heap.
func (q *queue) Pop() any {
	last := len(*q) - 1
	a := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	a.index = -1
	return a
}
