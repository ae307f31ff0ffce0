package sla

import (
	"math"
	"sort"
)

// Method names the rules that a status was made by.
const Method = "asap-sla/1"

// How much a figure rests on.
const (
	DataOK           = "ok"
	DataInsufficient = "insufficient_data"
	DataNone         = "no_data"
	DataExcluded     = "excluded"
)

// Metrics are the measured figures of one agent over one period, with the members
// of v1.3.0's SLAMetrics; what was not measured is null.
type Metrics struct {
	Agent            string   `json:"agent"`
	AgentID          string   `json:"agent_id"`
	PeriodStart      Instant  `json:"period_start"`
	PeriodEnd        Instant  `json:"period_end"`
	UptimePercent    *float64 `json:"uptime_percent"`
	LatencyP95MS     *int64   `json:"latency_p95_ms"`
	ErrorRatePercent *float64 `json:"error_rate_percent"`
	TasksCompleted   int64    `json:"tasks_completed"`
	TasksFailed      int64    `json:"tasks_failed"`
}

// ObjectiveStatus is how one promise is kept.
type ObjectiveStatus struct {
	Objective Objective `json:"objective"`
	Promised  string    `json:"promised"`
	// Actual is a percentage, or milliseconds for latency.
	Actual *float64 `json:"actual"`
	// Met is exact, whatever the rounding of Actual; null without data.
	Met *bool `json:"met"`
	// BudgetRemaining is 1 while nothing went wrong, 0 when the promise is used up,
	// and negative when it is broken.
	BudgetRemaining *float64 `json:"budget_remaining"`
	// The burn rates are 1 when exactly the promise is used.
	BurnRate5m *float64 `json:"burn_rate_5m"`
	BurnRate1h *float64 `json:"burn_rate_1h"`
	BurnRate6h *float64 `json:"burn_rate_6h"`
	BurnRate3d *float64 `json:"burn_rate_3d"`
	// ProjectedBreachAt is when the promise will be broken if it goes on like this.
	ProjectedBreachAt *Instant `json:"projected_breach_at"`
	DataStatus        string   `json:"data_status"`
}

// OpenBreach is a breach that has not ended.
type OpenBreach struct {
	ID              string    `json:"id"`
	Agent           string    `json:"agent"`
	Objective       Objective `json:"objective"`
	Window          Window    `json:"window"`
	Severity        Severity  `json:"severity"`
	Threshold       string    `json:"threshold"`
	Actual          string    `json:"actual"`
	StartedAt       Instant   `json:"started_at"`
	DetectedAt      Instant   `json:"detected_at"`
	ResolvedAt      *Instant  `json:"resolved_at"`
	DurationSeconds Seconds   `json:"duration_seconds"`
	Flaps           int       `json:"flaps"`
	Flapping        bool      `json:"flapping"`
	// Status is firing, or resolving while it waits whether the promise stays kept.
	Status string `json:"status"`
	// Stale tells that nothing is known about the agent at present.
	Stale bool `json:"stale"`
}

// Status is the body of GET /agents/{id}/sla.
type Status struct {
	AgentID                   string            `json:"agent_id"`
	Window                    Window            `json:"window"`
	PeriodStart               Instant           `json:"period_start"`
	PeriodEnd                 Instant           `json:"period_end"`
	EffectivePeriodStart      Instant           `json:"effective_period_start"`
	Metrics                   Metrics           `json:"metrics"`
	DataStatus                string            `json:"data_status"`
	CoveragePercent           *float64          `json:"coverage_percent"`
	DownSeconds               Seconds           `json:"down_seconds"`
	UnknownSeconds            Seconds           `json:"unknown_seconds"`
	ExcludedSeconds           Seconds           `json:"excluded_seconds"`
	UptimePercentSupportHours *float64          `json:"uptime_percent_support_hours"`
	SupportHours              *string           `json:"support_hours"`
	TasksCancelled            int64             `json:"tasks_cancelled"`
	TasksExcluded             int64             `json:"tasks_excluded"`
	TasksRejected             int64             `json:"tasks_rejected"`
	LateDropped               int64             `json:"late_dropped"`
	LatencyClamped            int64             `json:"latency_clamped"`
	ThresholdApproximate      bool              `json:"threshold_approximate"`
	Objectives                []ObjectiveStatus `json:"objectives"`
	CompliancePercent         *float64          `json:"compliance_percent"`
	TimeInCompliancePercent   *float64          `json:"time_in_compliance_percent"`
	SLAScore                  *float64          `json:"sla_score"`
	OpenBreaches              []OpenBreach      `json:"open_breaches"`
	Method                    string            `json:"method"`
}

// Status tells how an agent does in a window that ends at the engine's present.
// Its cost does not depend on the number of tasks. The error wraps ErrRefused: the
// agent is not known.
func (e *Engine) Status(agentID string, w Window) (*Status, error) {
	a := e.agents[agentID]
	if a == nil {
		return nil, refusedf("agent %.200q is not registered", agentID)
	}
	return a.status(w, e.now, &e.policy), nil
}

func (a *agent) status(w Window, now Instant, p *Policy) *Status {
	start := max(now-w.width(), a.registered)
	times, sum := a.period(w, now), &a.sums[w]
	excluded := overlap(a.granted, start, min(now, a.removed))
	s := &Status{
		AgentID:              a.id,
		Window:               w,
		PeriodStart:          now - w.width(),
		PeriodEnd:            now,
		EffectivePeriodStart: max(windowSpecs[w].tier.bucketStart(now-w.width()+1), a.registered),
		DataStatus:           probeStatus(times, excluded),
		DownSeconds:          Seconds(times.down),
		UnknownSeconds:       Seconds(times.unknown),
		ExcludedSeconds:      Seconds(excluded),
		SupportHours:         a.promise.supportHours,
		TasksCancelled:       sum.Cancelled,
		TasksExcluded:        sum.Excluded,
		TasksRejected:        sum.Rejected,
		LateDropped:          a.lateDropped,
		LatencyClamped:       a.clamped,
		ThresholdApproximate: a.turnedOver[w] > now,
		Objectives:           []ObjectiveStatus{},
		OpenBreaches:         []OpenBreach{},
		SLAScore:             a.score(now),
		Method:               Method,
	}
	s.Metrics = Metrics{
		Agent: a.id, AgentID: a.id, PeriodStart: s.PeriodStart, PeriodEnd: s.PeriodEnd,
		TasksCompleted: sum.Completed, TasksFailed: sum.Failed,
	}
	if eligible := times.eligible(); eligible > 0 {
		s.CoveragePercent = percent(times.measured(), eligible)
	}
	if times.measured() > 0 {
		s.Metrics.UptimePercent = percent(times.up, times.measured())
	}
	if ms, ok := a.promise.p95(&sum.Counts, &sum.sketch); ok {
		s.Metrics.LatencyP95MS = &ms
	}
	if sum.judged() > 0 {
		s.Metrics.ErrorRatePercent = percent(Instant(sum.Failed), Instant(sum.judged()))
	}
	s.UptimePercentSupportHours = a.supportHoursUptime(start, now)

	least := math.Inf(1)
	for o, objective := range objectives {
		if !a.promise.makes(objective) {
			continue
		}
		state, kept, ok := a.objectiveStatus(o, w, now, p, s)
		s.Objectives = append(s.Objectives, state)
		if ok {
			least = min(least, kept)
		}
	}
	if !math.IsInf(least, 1) {
		s.CompliancePercent = shown(100 * least)
	}
	if len(s.Objectives) > 0 && len(p.Windows) > 0 && p.Windows[0] == LastHour {
		s.TimeInCompliancePercent = a.timeInCompliance(start, now)
	}
	for o := range objectives {
		for w := range windowCount {
			if t := &a.trackers[o][w]; t.breach != nil {
				s.OpenBreaches = append(s.OpenBreaches, t.openBreach(now, o == 0 && a.state() == StateUnknown))
			}
		}
	}
	return s
}

func percent(part, whole Instant) *float64 { return shown(100 * share(int64(part), int64(whole))) }

// probeStatus is the data status of uptime.
func probeStatus(s spans, excluded Instant) string {
	switch {
	case s.eligible() == 0 && excluded > 0:
		return DataExcluded
	case s.measured() == 0:
		return DataNone
	case 2*s.measured() < s.eligible() || s.measured() < minMeasured:
		return DataInsufficient
	default:
		return DataOK
	}
}

// taskStatus is that of a figure about n tasks.
func taskStatus(n, minTasks int64) string {
	switch {
	case n == 0:
		return DataNone
	case n < minTasks:
		return DataInsufficient
	default:
		return DataOK
	}
}

func (t *tracker) openBreach(now Instant, stale bool) OpenBreach {
	b := t.breach
	return OpenBreach{
		ID: b.ID, Agent: b.Agent, Objective: b.Objective, Window: b.Window, Severity: b.Severity,
		Threshold: b.Threshold, Actual: b.ActualLast, StartedAt: b.StartedAt, DetectedAt: b.DetectedAt,
		DurationSeconds: b.Duration(now), Flaps: b.Flaps, Flapping: b.Flapping,
		Status: t.phase.String(), Stale: stale,
	}
}

// good returns, for an objective over a lookback, the number that went well, the
// number altogether, and the share that is promised.
func (a *agent) good(objective Objective, l lookback, now Instant) (good, all int64, promised float64) {
	sum := &a.sums[l]
	switch objective {
	case Availability:
		s := a.line.between(now-lookbackSpecs[l].width, now)
		return int64(s.up), int64(s.measured()), a.promise.availability.Float64() / 100
	case Latency:
		return sum.Timed - sum.Slow, sum.Timed, 0.95
	default:
		return sum.Completed, sum.judged(), 1 - a.promise.errorRate.Float64()/100
	}
}

// used is which part of what may go wrong did: 1 is all of it. Nil without data,
// or if nothing may and something did.
func (a *agent) used(objective Objective, l lookback, now Instant) *float64 {
	good, all, promised := a.good(objective, l, now)
	switch {
	case all == 0:
		return nil
	case good == all:
		return shown(0)
	case promised >= 1:
		return nil
	default:
		return shown((1 - share(good, all)) / (1 - promised))
	}
}

// objectiveStatus also returns the share that was kept of what is promised, at
// most 1; ok is false without data.
func (a *agent) objectiveStatus(o int, w Window, now Instant, p *Policy, s *Status) (st ObjectiveStatus, kept float64, ok bool) {
	objective, l := objectives[o], lookback(w)
	good, all, promised := a.good(objective, l, now)
	st = ObjectiveStatus{
		Objective:  objective,
		Promised:   a.promise.promised(objective),
		BurnRate5m: a.used(objective, burn5m, now),
		BurnRate1h: a.used(objective, lookback(LastHour), now),
		BurnRate6h: a.used(objective, burn6h, now),
		BurnRate3d: a.used(objective, burn3d, now),
		DataStatus: s.DataStatus,
	}
	switch objective {
	case Availability:
		st.Actual = s.Metrics.UptimePercent
	case Latency:
		if s.Metrics.LatencyP95MS != nil {
			ms := float64(*s.Metrics.LatencyP95MS)
			st.Actual = &ms
		}
	default:
		st.Actual = s.Metrics.ErrorRatePercent
	}
	if objective != Availability {
		st.DataStatus = taskStatus(all, p.MinTasks)
		if all == 0 && s.DataStatus == DataExcluded {
			st.DataStatus = DataExcluded
		}
	}
	if all == 0 {
		return st, 0, false
	}
	v := a.verdictOn(o, w, now, p)
	met := !v.breached
	st.Met = &met
	if used := a.used(objective, l, now); used != nil {
		st.BudgetRemaining = shown(1 - *used)
	}
	if met && v.enough && !v.frozen {
		st.ProjectedBreachAt = a.projected(objective, w, now, &st)
	}
	kept = 1
	if actual := share(good, all); !met && promised > 0 {
		kept = min(1, actual/promised)
	}
	return st, kept, true
}

// projected is when a promise that is kept will be broken: availability, if the
// agent stays down, exactly; the others, when the budget is used up at the pace of
// the last hour.
func (a *agent) projected(objective Objective, w Window, now Instant, st *ObjectiveStatus) *Instant {
	if objective == Availability {
		if a.state() != StateDown {
			return nil
		}
		return a.projectedDown(w, now)
	}
	if st.BurnRate1h == nil || st.BudgetRemaining == nil || *st.BurnRate1h <= 1 {
		return nil
	}
	at := now + Instant(float64(w.width())*max(0, *st.BudgetRemaining) / *st.BurnRate1h)
	return &at
}

// projectedDown is when availability falls below the promise if the agent stays
// down; nil if it never does.
func (a *agent) projectedDown(w Window, now Instant) *Instant {
	broken := func(t Instant) bool {
		s := a.line.between(t-w.width(), now)
		s.down += t - now
		return a.promise.testAvailability(s).has(testBreached)
	}
	// Between two changes at the start of the window, it is broken from some point
	// on or until some point; its start leaves nothing but down time behind later.
	from := now
	for i := a.line.after(now - w.width()); ; i++ {
		to := now + w.width()
		if i < len(a.line) {
			to = min(to, a.line[i].at+w.width())
		}
		if broken(to) {
			n := sort.Search(int(to-from), func(k int) bool { return broken(from + Instant(k) + 1) })
			at := from + Instant(n)
			return &at
		}
		if i >= len(a.line) {
			return nil
		}
		from = to
	}
}

// timeInCompliance is the share of the measured time since start during which no
// promise was broken in the last hour.
func (a *agent) timeInCompliance(start, now Instant) *float64 {
	measured := a.line.between(start, now).measured()
	if measured == 0 {
		return nil
	}
	var broken []interval
	add := func(x interval) {
		if x.end > start {
			broken = append(broken, interval{max(x.start, start), x.end})
		}
	}
	for _, x := range a.breached {
		add(x)
	}
	for o := range objectives {
		if b := a.trackers[o][LastHour].breach; b != nil {
			add(interval{b.StartedAt, now})
		}
	}
	var lost Instant
	for _, x := range union(broken) {
		lost += a.line.between(x.start, x.end).measured()
	}
	return percent(measured-lost, measured)
}

// score is the figure that agents are sorted by, over the last month.
func (a *agent) score(now Instant) *float64 {
	sum := &a.sums[LastMonth]
	up, tasks, latency := component{exponent: 0.4}, component{exponent: 0.4}, component{exponent: 0.2}
	if s := a.period(LastMonth, now); s.measured() > 0 && sum.Probes > 0 {
		up.share, up.n = share(int64(s.up), int64(s.measured())), sum.Probes
	}
	if n := sum.judged(); n > 0 {
		tasks.share, tasks.n = share(sum.Completed, n), n
	}
	if n := sum.Timed; n > 0 && a.promise.latencyMS != nil {
		latency.share, latency.n = share(n-sum.Slow, n), n
	}
	return score(up, tasks, latency)
}
