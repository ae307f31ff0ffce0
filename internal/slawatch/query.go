package slawatch

import (
	"context"
	"errors"
	"slices"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/sla/sketch"
)

// ErrUnknownAgent reports an agent that was never watched.
var ErrUnknownAgent = errors.New("the agent is not known")

// catchUp moves the engine to the present, so that what is told is of now. The
// caller holds mu.
func (w *Watch) catchUp() error {
	if w.shared() { // all nodes answer as of the journal
		return w.broken
	}
	had := len(w.pending)
	err := w.advance(sla.InstantOf(w.opts.Now()))
	if len(w.pending) > had {
		w.Wake()
	}
	return err
}

// Status tells how an agent does in a window that ends now. The error is
// ErrUnknownAgent for one that was never watched.
func (w *Watch) Status(_ context.Context, agentID string, window sla.Window) (*sla.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.catchUp(); err != nil {
		return nil, err
	}
	status, err := w.engine.Status(agentID, window)
	if errors.Is(err, sla.ErrRefused) {
		return nil, ErrUnknownAgent
	}
	return status, err
}

// Measured is for how long an agent was up and down in a window that ends now.
func (w *Watch) Measured(_ context.Context, agentID string, window sla.Window) (up, down sla.Instant, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.catchUp(); err != nil {
		return 0, 0, err
	}
	up, down, ok := w.engine.Times(agentID, window)
	if !ok {
		return 0, 0, ErrUnknownAgent
	}
	return up, down, nil
}

// Agents are those that are watched, in the order of their ids.
func (w *Watch) Agents(context.Context) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make([]string, 0, len(w.known))
	for id := range w.known {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// Period is what an agent did in one bucket of its history.
type Period struct {
	sla.Metrics
	CoveragePercent *float64    `json:"coverage_percent" doc:"share of the time of which the state is known"`
	DownSeconds     sla.Seconds `json:"down_seconds"`
	UnknownSeconds  sla.Seconds `json:"unknown_seconds"`
	ExcludedSeconds sla.Seconds `json:"excluded_seconds"`
	TasksCancelled  int64       `json:"tasks_cancelled"`
	TasksExcluded   int64       `json:"tasks_excluded"`
	TasksRejected   int64       `json:"tasks_rejected"`
}

// History granularities.
const (
	Hourly = "hour"
	Daily  = "day"
)

const (
	hour = sla.Instant(3600_000)
	day  = 24 * hour
	// transitionsKept is how long changes of state are remembered exactly.
	transitionsKept = 35 * day
)

// History returns what an agent did hour by hour or day by day (UTC), oldest
// first: the periods in which anything is known and which overlap [start, end).
// Hours are kept 35 days, days 400.
func (w *Watch) History(_ context.Context, agentID, granularity string, start, end sla.Instant) ([]Period, error) {
	tier, width := sla.TierHour, hour
	if granularity == Daily {
		tier, width = sla.TierDay, day
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.catchUp(); err != nil {
		return nil, err
	}
	state, ok := w.engine.AgentSnapshot(agentID)
	if !ok {
		return nil, ErrUnknownAgent
	}
	now := w.present
	if state.Removed != nil {
		now = min(now, *state.Removed)
	}
	if end == 0 || end > now {
		end = now + 1
	}
	floor := func(t sla.Instant) sla.Instant { return (t - 1) / width * width } // buckets are left-open
	start = max(start, now-400*day)
	list, err := w.buckets.between(tier, agentID, floor(start), end)
	if err != nil {
		return nil, err
	}
	byStart := map[sla.Instant]*sla.Bucket{}
	for i := range list {
		if list[i].Registered == state.Registered {
			byStart[list[i].Start] = &list[i]
		}
	}
	for i := range state.Open {
		o := &state.Open[i]
		if o.Tier != tier || o.Start < floor(start) || o.Start >= end {
			continue
		}
		b, err := openBucket(o, agentID)
		if err != nil {
			return nil, err
		}
		byStart[o.Start] = b
	}
	line := newLine(&state, now)
	// Times are known as far back as changes of state are, tasks as far as buckets.
	first := max(state.Registered, now-transitionsKept)
	for at := max(floor(first+1), floor(start+1)); at < end && at < now; at += width {
		if byStart[at] == nil {
			byStart[at] = &sla.Bucket{Tier: tier, Start: at}
		}
	}
	periods := make([]Period, 0, len(byStart))
	for at, b := range byStart {
		if at+width <= start {
			continue
		}
		p := period(agentID, b, max(at, state.Registered), min(at+width, now), line)
		if p.TasksCompleted+p.TasksFailed+p.TasksCancelled+p.TasksExcluded+p.TasksRejected > 0 || p.CoveragePercent != nil && *p.CoveragePercent > 0 || p.ExcludedSeconds > 0 {
			periods = append(periods, p)
		}
	}
	slices.SortFunc(periods, func(a, b Period) int { return int(a.PeriodStart - b.PeriodStart) })
	return periods, nil
}

func period(agentID string, b *sla.Bucket, from, to sla.Instant, l line) Period {
	p := Period{Metrics: sla.Metrics{Agent: agentID, AgentID: agentID, PeriodStart: from, PeriodEnd: to,
		TasksCompleted: b.Completed, TasksFailed: b.Failed}, TasksCancelled: b.Cancelled, TasksExcluded: b.Excluded, TasksRejected: b.Rejected}
	if ms, ok := b.Sketch.P95(); ok {
		p.LatencyP95MS = &ms
	}
	if n := b.Completed + b.Failed; n > 0 {
		p.ErrorRatePercent = percent(b.Failed, n)
	}
	up, down, unknown, excluded := l.between(from, to)
	p.UptimePercent = percent(int64(up), int64(up+down))
	p.CoveragePercent = percent(int64(up+down), int64(up+down+unknown))
	p.DownSeconds, p.UnknownSeconds, p.ExcludedSeconds = sla.Seconds(down), sla.Seconds(unknown), sla.Seconds(excluded)
	return p
}

// percent is a share with six decimals, or nil of nothing.
func percent(part, whole int64) *float64 {
	if whole <= 0 {
		return nil
	}
	v := float64(int64(float64(part)/float64(whole)*1e8+0.5)) / 1e6
	return &v
}

// line is the state of an agent over time, as changes of it.
type line struct {
	changes []sla.Transition
	now     sla.Instant
}

func newLine(a *sla.AgentState, now sla.Instant) line { return line{a.Transitions, now} }

// excludedState is how a snapshot names planned maintenance.
const excludedState = "excluded"

func (l line) between(from, to sla.Instant) (up, down, unknown, excluded sla.Instant) {
	for i, c := range l.changes {
		end := l.now
		if i+1 < len(l.changes) {
			end = l.changes[i+1].At
		}
		d := min(end, to) - max(c.At, from)
		if d <= 0 {
			continue
		}
		switch {
		case c.State == sla.StateUp:
			up += d
		case c.State == sla.StateDown:
			down += d
		case c.State == sla.StateUnknown:
			unknown += d
		case c.State.String() == excludedState:
			excluded += d
		}
	}
	return up, down, unknown, excluded
}

// Outage is a time during which an agent was down.
type Outage struct {
	Agent     string       `json:"agent"`
	AgentID   string       `json:"agent_id"`
	StartedAt sla.Instant  `json:"started_at"`
	EndedAt   *sla.Instant `json:"ended_at" doc:"null while it lasts"`
	Duration  sla.Seconds  `json:"duration_seconds"`
	// EndedBy is the state that followed.
	EndedBy *string `json:"ended_by" enum:"up,unknown,excluded,none" doc:"the state that followed"`
}

// Outages returns when an agent was down in the last 35 days, newest first, as far
// as it overlaps [start, end); 0 is open.
func (w *Watch) Outages(_ context.Context, agentID string, start, end sla.Instant) ([]Outage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.catchUp(); err != nil {
		return nil, err
	}
	state, ok := w.engine.AgentSnapshot(agentID)
	if !ok {
		return nil, ErrUnknownAgent
	}
	outages := []Outage{}
	for i, c := range state.Transitions {
		if c.State != sla.StateDown {
			continue
		}
		o := Outage{Agent: agentID, AgentID: agentID, StartedAt: c.At, Duration: sla.Seconds(w.present - c.At)}
		if i+1 < len(state.Transitions) {
			next := state.Transitions[i+1]
			by := next.State.String()
			o.EndedAt, o.EndedBy, o.Duration = &next.At, &by, sla.Seconds(next.At-c.At)
		}
		if (start == 0 || o.EndedAt == nil || *o.EndedAt > start) && (end == 0 || c.At < end) {
			outages = append(outages, o)
		}
	}
	slices.Reverse(outages)
	return outages, nil
}

// Breaches returns the selected ones as they are now, and how many there are.
func (w *Watch) Breaches(ctx context.Context, f BreachFilter) ([]BreachView, int, error) {
	list, total, err := w.log.Breaches(ctx, f)
	if err != nil {
		return nil, 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.catchUp(); err != nil {
		return nil, 0, err
	}
	views := make([]BreachView, len(list))
	open := map[string]map[string]sla.OpenBreach{}
	for i := range list {
		views[i] = viewOf(&list[i], w.present)
		if list[i].ResolvedAt == nil {
			w.amend(&views[i], &list[i], open)
		}
	}
	return views, total, nil
}

// amend adds what the engine knows of an open breach and nobody has recorded: what
// changes without being an event.
func (w *Watch) amend(v *BreachView, b *ledger.Breach, cache map[string]map[string]sla.OpenBreach) {
	if cache[b.Agent] == nil {
		cache[b.Agent] = map[string]sla.OpenBreach{}
		if status, err := w.engine.Status(b.Agent, b.Window); err == nil {
			for _, o := range status.OpenBreaches {
				cache[b.Agent][o.ID] = o
			}
		}
	}
	if o, ok := cache[b.Agent][b.ID]; ok {
		v.Actual, v.Severity, v.Flaps, v.Flapping, v.Status, v.Stale, v.Duration = o.Actual, o.Severity, o.Flaps, o.Flapping, o.Status, o.Stale, o.DurationSeconds
	}
}

// openBucket is a bucket that still fills.
func openBucket(o *sla.OpenBucket, agentID string) (*sla.Bucket, error) {
	latencies, err := sketch.Decode(o.Sketch)
	if err != nil {
		return nil, err
	}
	return &sla.Bucket{Tier: o.Tier, Start: o.Start, Agent: agentID, Counts: o.Counts, SLAVersion: o.SLAVersion, Sketch: latencies}, nil
}
