package sla

import (
	"fmt"
	"slices"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/sla/sketch"
	"github.com/go-json-experiment/json/jsontext"
)

// Snapshot is all that an engine knows beyond its Buckets. It can be written as
// JSON. Agents may be stored one by one: they do not interact.
type Snapshot struct {
	Now    Instant      `json:"now"`
	Agents []AgentState `json:"agents"`
	Seen   []SeenTasks  `json:"seen"`
}

// SeenTasks are the tasks whose end became known in one hour, as hashes.
type SeenTasks struct {
	Hour Instant  `json:"hour"`
	Keys []uint64 `json:"keys"`
}

// AgentState is what an engine knows about one agent beyond its Buckets.
type AgentState struct {
	Agent string `json:"agent"`
	// AsOf is up to when the state knows everything. Those of one snapshot may be
	// of different instants, none earlier than the snapshot's: see Restore.
	AsOf Instant `json:"as_of"`
	// Mark is for whoever keeps the state, to say what the engine had been told.
	Mark           int64          `json:"mark,omitzero"`
	Order          int64          `json:"order"`
	Registered     Instant        `json:"registered"`
	Removed        *Instant       `json:"removed"`
	ResultsHold    int32          `json:"results_hold_ms"`
	Zone           string         `json:"tz"`
	SLA            jsontext.Value `json:"sla"`
	SLAVersion     int64          `json:"sla_version"`
	LatencyVersion int64          `json:"latency_version"`
	TurnedOver     []Instant      `json:"turned_over"`
	Observers      []Observer     `json:"observers"`
	Transitions    []Transition   `json:"transitions"`
	Exclusions     []Exclusion    `json:"exclusions"`
	Open           []OpenBucket   `json:"open_buckets"`
	Closed         []Instant      `json:"closed_buckets"`
	LateDropped    int64          `json:"late_dropped"`
	Clamped        int64          `json:"clamped"`
	LastTimed      Instant        `json:"last_timed"`
	LastJudged     Instant        `json:"last_judged"`
	Trackers       []TrackerState `json:"trackers"`
	Breached       [][2]Instant   `json:"breached"`
}

// Transition is a change of an agent's state.
type Transition struct {
	At    Instant `json:"at"`
	State State   `json:"state"`
}

// OpenBucket is a Bucket that events still fall into. Its sketch is encoded.
type OpenBucket struct {
	Tier       Tier    `json:"tier"`
	Start      Instant `json:"start"`
	Counts     `json:",inline"`
	SLAVersion int64  `json:"sla_version"`
	Sketch     []byte `json:"sketch"`
}

// TrackerState is where one promise of an agent stands in one window.
type TrackerState struct {
	Objective Objective `json:"objective"`
	Window    Window    `json:"window"`
	Phase     uint8     `json:"phase"`
	Steady    bool      `json:"steady"`
	Paused    Instant   `json:"paused"`
	Since     Instant   `json:"since"`
	Due       Instant   `json:"due"`
	Returned  Instant   `json:"returned"`
	Flapped   []Instant `json:"flapped"`
	Digested  Instant   `json:"digested,omitzero"`
	Stale     bool      `json:"stale,omitzero"`
	Breach    *Breach   `json:"breach"`
}

// Snapshot returns what is needed, beside the Buckets, to go on from here.
func (e *Engine) Snapshot() Snapshot {
	s := Snapshot{Now: max(e.now, 0)}
	for _, a := range e.agents {
		s.Agents = append(s.Agents, a.snapshot(s.Now))
	}
	slices.SortFunc(s.Agents, func(a, b AgentState) int { return int(a.Order - b.Order) })
	s.Seen = e.Seen()
	return s
}

// Seen is the part of a snapshot that is about tasks. It must not be written to.
func (e *Engine) Seen() []SeenTasks {
	seen := make([]SeenTasks, 0, len(e.seen.hours))
	for slot, keys := range e.seen.hours {
		seen = append(seen, SeenTasks{slot, keys[:len(keys):len(keys)]}) // only ever appended to
	}
	slices.SortFunc(seen, func(a, b SeenTasks) int { return int(a.Hour - b.Hour) })
	return seen
}

// Changed is how many agents have changed since TakeChanged returned them last.
func (e *Engine) Changed() int { return len(e.changed) }

// TakeChanged returns the states of the n agents, or of all if they are fewer,
// that have been changed for the longest time, with all that is known by now.
func (e *Engine) TakeChanged(n int) []AgentState {
	n = min(n, len(e.changed))
	states := make([]AgentState, 0, n)
	for i, a := range e.changed[:n] {
		a.dirty = false
		if e.agents[a.id] == a { // else it was removed and registered anew
			states = append(states, a.snapshot(max(e.now, 0)))
		}
		e.changed[i] = nil
	}
	if e.changed = e.changed[n:]; len(e.changed) == 0 {
		e.changed = nil
	}
	return states
}

// Touch makes TakeChanged return an agent again.
func (e *Engine) Touch(agentID string) {
	if a := e.agents[agentID]; a != nil {
		e.mark(a)
	}
}

// AgentSnapshot returns the part of a snapshot that is about one agent.
func (e *Engine) AgentSnapshot(agentID string) (s AgentState, ok bool) {
	a := e.agents[agentID]
	if a == nil {
		return s, false
	}
	return a.snapshot(max(e.now, 0)), true
}

// Times is for how long an agent was up and down in a window that ends now; ok is
// false for one that is not known.
func (e *Engine) Times(agentID string, w Window) (up, down Instant, ok bool) {
	a := e.agents[agentID]
	if a == nil {
		return 0, 0, false
	}
	s := a.period(w, e.now)
	return s.up, s.down, true
}

func (a *agent) snapshot(now Instant) AgentState {
	s := AgentState{
		Agent: a.id, AsOf: now, Order: a.order, Registered: a.registered, ResultsHold: a.holds, Zone: a.zone.String(),
		SLA:        jsontext.Value(a.promise.definition().AppendJSON(nil)),
		SLAVersion: a.slaVersion, LatencyVersion: a.promise.version, TurnedOver: slices.Clone(a.turnedOver[:]),
		Exclusions: slices.Clone(a.exclusions), Closed: slices.Clone(a.closed[:]),
		LateDropped: a.lateDropped, Clamped: a.clamped, LastTimed: a.lastTimed, LastJudged: a.lastJudged,
	}
	if a.removed != never {
		removed := a.removed
		s.Removed = &removed
	}
	for _, o := range a.observers {
		s.Observers = append(s.Observers, Observer{o.Name, slices.Clone(o.Results)})
	}
	for _, p := range a.line {
		s.Transitions = append(s.Transitions, Transition{p.at, p.state})
	}
	for _, b := range a.open {
		if b != nil {
			s.Open = append(s.Open, OpenBucket{b.Tier, b.Start, b.Counts, b.SLAVersion, b.Sketch.Append(nil)})
		}
	}
	for o := range a.trackers {
		for w := range a.trackers[o] {
			t := &a.trackers[o][w]
			if t.phase == phaseNoData && t.paused < 0 {
				continue // as a new one
			}
			r := t.rests()
			ts := TrackerState{objectives[o], Window(w), uint8(t.phase), t.steady, t.paused, t.since, t.due, t.returned, slices.Clone(r.flapped), r.digested, r.stale, nil}
			if t.breach != nil {
				b := *t.breach
				ts.Breach = &b
			}
			s.Trackers = append(s.Trackers, ts)
		}
	}
	for _, x := range a.breached {
		s.Breached = append(s.Breached, [2]Instant{x.start, x.end})
	}
	return s
}

// Restore returns an engine that goes on where a snapshot was taken, with the
// buckets that were put away by then. Buckets put away after it, before a crash,
// do no harm if the same events are fed again from the snapshot on: they are
// written anew. A closed bucket that a late event amended after it is the
// exception; it must be put back to what it was along with the snapshot.
//
// The state of an agent may be newer than the snapshot, if the buckets it had put
// away by then are there too. The engine must then be told about that agent only
// what it had not been told when the state was taken.
func Restore(policy Policy, buckets Buckets, s Snapshot) (*Engine, error) {
	e, err := NewEngine(policy, buckets)
	if err != nil {
		return nil, err
	}
	if err := e.advance(s.Now); err != nil {
		return nil, err
	}
	for i := range s.Agents {
		a, err := restoreAgent(&s.Agents[i], &e.policy)
		if err != nil {
			return nil, fmt.Errorf("restore agent %s: %w", s.Agents[i].Agent, err)
		}
		a.emit = a.noting(e.emit)
		e.agents[a.id] = a
		e.orders = max(e.orders, a.order)
	}
	for _, seen := range s.Seen {
		e.seen.hours[seen.Hour] = slices.Clone(seen.Keys)
		for _, key := range seen.Keys {
			e.seen.keys[key] = struct{}{}
		}
	}
	if err := e.sumUp(); err != nil {
		return nil, err
	}
	for _, a := range e.agents {
		e.schedule(a)
	}
	return e, nil
}

func restoreAgent(s *AgentState, p *Policy) (*agent, error) {
	a := newAgent(s.Agent, s.Registered)
	def, err := asap.ParseSLADefinition(s.SLA)
	if err != nil {
		return nil, err
	}
	if a.zone, err = time.LoadLocation(s.Zone); err != nil {
		return nil, err
	}
	a.asOf, a.order, a.holds, a.slaVersion = s.AsOf, s.Order, s.ResultsHold, s.SLAVersion
	a.promise = newPromise(def)
	a.promise.version = s.LatencyVersion
	if s.Removed != nil {
		a.removed = *s.Removed
	}
	copy(a.turnedOver[:], s.TurnedOver)
	copy(a.closed[:], s.Closed)
	for _, o := range s.Observers {
		a.observers = append(a.observers, Observer{o.Name, slices.Clone(o.Results)})
	}
	a.line = nil
	for _, t := range s.Transitions {
		a.line.set(t.At, t.State)
	}
	if len(a.line) == 0 {
		return nil, fmt.Errorf("no state at all")
	}
	a.exclusions = slices.Clone(s.Exclusions)
	a.granted = granted(a.exclusions, p.MaintenanceCap)
	for _, b := range s.Open {
		if b.Tier >= tierCount {
			return nil, fmt.Errorf("unknown tier %d", b.Tier)
		}
		latencies, err := sketch.Decode(b.Sketch)
		if err != nil {
			return nil, err
		}
		a.open[b.Tier] = &Bucket{b.Tier, b.Start, a.id, a.registered, b.Counts, b.SLAVersion, latencies}
	}
	a.lateDropped, a.clamped, a.lastTimed, a.lastJudged = s.LateDropped, s.Clamped, s.LastTimed, s.LastJudged
	for _, t := range s.Trackers {
		o := slices.Index(objectives[:], t.Objective)
		if o < 0 || t.Window >= windowCount || t.Phase > uint8(phaseResolving) || (t.Breach != nil) != (t.Phase >= uint8(phaseFiring)) {
			return nil, fmt.Errorf("impossible state of %s", t.Objective)
		}
		a.trackers[o][t.Window] = tracker{phase(t.Phase), t.Steady, t.Paused, t.Since, t.Due, t.Returned, nil, nil}
		if len(t.Flapped) > 0 || t.Digested > 0 || t.Stale {
			a.trackers[o][t.Window].restless = &restless{slices.Clone(t.Flapped), t.Digested, t.Stale}
		}
		if t.Breach != nil {
			b := *t.Breach
			a.trackers[o][t.Window].breach = &b
		}
	}
	for _, x := range s.Breached {
		a.breached = append(a.breached, interval{x[0], x[1]})
	}
	return a, nil
}

// sumUp makes the running sums of all agents anew, from the buckets put away and
// from the open ones.
func (e *Engine) sumUp() error {
	take := func(l lookback, a *agent, b *Bucket) {
		a.sums[l].add(a.taken(b), 1)
		a.sums[l].sketch.Merge(&b.Sketch)
		e.rows = max(e.rows, b.Start+hour+rowsMatter)
	}
	newest := e.now
	for _, a := range e.agents {
		newest = max(newest, a.asOf)
	}
	for tier := range tierCount {
		for start := tier.bucketStart(newest); ; start -= tierSpecs[tier].width {
			var in []lookback
			for l := range lookbackCount {
				if lookbackSpecs[l].tier == tier && l.holds(start, e.now) {
					in = append(in, l)
				}
			}
			if len(in) == 0 {
				break
			}
			for b, err := range e.buckets.Scan(tier, start) {
				if err != nil {
					return err
				}
				a := e.agents[b.Agent]
				if a == nil || a.registered != b.Registered {
					continue
				}
				// What was open, or not there, was put away later than the snapshot.
				open := a.open[tier]
				if start <= a.closed[tier] && (open == nil || open.Start != start) {
					for _, l := range in {
						take(l, a, &b)
					}
				}
			}
		}
	}
	for _, a := range e.agents {
		for tier, b := range a.open {
			if b == nil {
				continue
			}
			e.touched[a] = struct{}{}
			for l := range lookbackCount {
				if lookbackSpecs[l].tier == Tier(tier) && l.holds(b.Start, e.now) {
					take(l, a, b)
				}
			}
		}
	}
	return nil
}
