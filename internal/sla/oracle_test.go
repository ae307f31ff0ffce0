package sla

import (
	"fmt"
	"math"
	"slices"
	"testing"

	asap "github.com/asap-protocol/asap-go"
	"pgregory.net/rapid"
)

// The oracle knows nothing but the events that happened, in the order in which
// they became known, and works everything out from them anew each time.

type oracleProbe struct {
	at       Instant
	state    State
	observer string
}

type oracleTask struct {
	at      Instant
	failed  bool
	latency int64 // -1 for failed ones
}

type oracle struct {
	registered Instant
	probes     []oracleProbe
	tasks      []oracleTask
	windows    []interval // maintenance
}

// stateAt is the state in the millisecond that begins at t.
func (o *oracle) stateAt(t Instant) State {
	if t < o.registered {
		return stateNone
	}
	for _, x := range o.windows {
		if x.start <= t && t < x.end {
			return stateExcluded
		}
	}
	latest := map[string]oracleProbe{}
	for _, p := range o.probes {
		if last, ok := latest[p.observer]; p.at <= t && (!ok || last.at <= p.at) {
			latest[p.observer] = p
		}
	}
	up, down := 0, 0
	for _, p := range latest {
		if t-p.at >= 90*second {
			continue
		}
		switch p.state {
		case StateUp:
			up++
		case StateDown:
			down++
		}
	}
	switch {
	case up+down == 0:
		return StateUnknown
	case down > up:
		return StateDown
	default:
		return StateUp
	}
}

// times adds up the states in (end-width, end], from one possible change to the next.
func (o *oracle) times(end, width Instant) (up, down, unknown Instant) {
	edges := []Instant{end - width, end, o.registered}
	for _, p := range o.probes {
		edges = append(edges, p.at, p.at+90*second)
	}
	for _, x := range o.windows {
		edges = append(edges, x.start, x.end)
	}
	slices.Sort(edges)
	for i := 1; i < len(edges); i++ {
		from, to := max(edges[i-1], end-width), min(edges[i], end)
		if from >= to {
			continue
		}
		switch o.stateAt(from) {
		case StateUp:
			up += to - from
		case StateDown:
			down += to - from
		case StateUnknown:
			unknown += to - from
		}
	}
	return up, down, unknown
}

// inWindow are the tasks of the last hour by whole minutes.
func (o *oracle) inWindow(end Instant) (n, failed, slow int64, latencies []int64) {
	oldest := end - hour
	oldest -= oldest % minute // the minute that (end-1h) lies in is there as a whole
	for _, t := range o.tasks {
		if t.at <= oldest || t.at > end {
			continue
		}
		n++
		if t.failed {
			failed++
			continue
		}
		latencies = append(latencies, t.latency)
		if t.latency > oracleLimit {
			slow++
		}
	}
	return n, failed, slow, latencies
}

const (
	oracleLimit = 500
	oracleMin   = 20
	// 97.5 %, 500 ms, 4 %
	oracleUpNum, oracleErrNum, oracleDen = 975, 40, 1000
)

// broken tells, for each objective, whether there is enough data and whether the
// promise is broken.
func (o *oracle) broken(end Instant) (enough, broken [3]bool) {
	up, down, unknown := o.times(end, hour)
	enough[0] = up+down >= 5*minute && 2*(up+down) >= up+down+unknown
	broken[0] = up*oracleDen < (up+down)*oracleUpNum
	n, failed, slow, latencies := o.inWindow(end)
	enough[1] = int64(len(latencies)) >= oracleMin
	broken[1] = 20*slow > int64(len(latencies))
	enough[2] = n >= oracleMin
	broken[2] = failed*oracleDen > n*oracleErrNum
	return enough, broken
}

type oracleEvent struct {
	at, known Instant
	what      any
}

func drawEvents(t *rapid.T, start Instant) []oracleEvent {
	var events []oracleEvent
	now := start
	observers := []string{"p1", "p2", "p3"}[:rapid.IntRange(1, 3).Draw(t, "probers")]
	mood := map[string]State{}
	for range rapid.IntRange(20, 150).Draw(t, "events") {
		now += Instant(rapid.SampledFrom([]int64{0, 1, 499, 1000, 7003, 30_000, 30_000, 45_500, 60_000, 95_000, 300_000}).Draw(t, "gap"))
		at := now
		if rapid.IntRange(0, 9).Draw(t, "late") == 0 {
			at = max(start, now-Instant(rapid.Int64Range(0, int64(70*minute)).Draw(t, "by")))
		}
		switch kind := rapid.IntRange(0, 20).Draw(t, "kind"); {
		case kind == 20:
			from := now + hour + Instant(rapid.Int64Range(0, int64(20*minute)).Draw(t, "from"))
			length := Instant(rapid.Int64Range(1, int64(15*minute)).Draw(t, "length"))
			events = append(events, oracleEvent{now, now, Exclusion{Start: from, End: from + length, AnnouncedAt: now}})
		case kind < 13:
			who := rapid.SampledFrom(observers).Draw(t, "observer")
			if _, ok := mood[who]; !ok || rapid.IntRange(0, 5).Draw(t, "turn") == 0 {
				mood[who] = rapid.SampledFrom([]State{StateUp, StateUp, StateDown, StateUnknown}).Draw(t, "state")
			}
			events = append(events, oracleEvent{at, now, oracleProbe{at, mood[who], who}})
		default:
			for range rapid.SampledFrom([]int{1, 3, 25}).Draw(t, "tasks") {
				failed := rapid.IntRange(0, 15).Draw(t, "fails") == 0
				latency := rapid.SampledFrom([]int64{0, 3, 200, 499, 500, 501, 520, 999, 1000, 40_000}).Draw(t, "latency")
				if rapid.IntRange(0, 3).Draw(t, "usual") > 0 {
					latency = 200
				}
				if failed {
					latency = -1
				}
				events = append(events, oracleEvent{at, now, oracleTask{at, failed, latency}})
			}
		}
	}
	return events
}

func mustPercent(text string) *asap.Percentage {
	p, err := asap.ParsePercentage(text)
	if err != nil {
		panic(err)
	}
	return &p
}

// The engine and the oracle agree, after every event and between them, about what
// was measured, which promises are broken, and to the millisecond since when.
func TestAgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := Instant(1_771_400_000_000) + Instant(rapid.Int64Range(0, int64(hour)).Draw(t, "start"))
		policy := DefaultPolicy()
		policy.Windows = []Window{LastHour}
		policy.ResolveAfter = 0
		e, err := NewEngine(policy, NewMemoryBuckets())
		if err != nil {
			t.Fatal(err)
		}
		o := &oracle{registered: start}
		open := map[Objective]Breach{}
		lateAt := map[Instant]bool{} // instants at which the past changed
		// frozen tells whether verdicts on an objective are due at t at all.
		frozen := func(objective Objective, t Instant) bool {
			s := o.stateAt(t)
			return s == stateExcluded || (objective == Availability && s == StateUnknown)
		}
		// lookable tells whether there was a verdict on an objective at t.
		lookable := func(i int, t Instant) bool {
			enough, _ := o.broken(t)
			return enough[i] && !frozen(objectives[i], t)
		}
		check := func(events []Event, err error) {
			if err != nil {
				t.Fatal(err)
			}
			for _, ev := range events {
				b := ev.Breach
				i := slices.Index(objectives[:], b.Objective)
				switch ev.Kind {
				case Firing:
					if _, double := open[b.Objective]; double {
						t.Fatalf("%s fired twice", b.Objective)
					}
					open[b.Objective] = b
					// It starts at the last millisecond in which the promise was kept, unless
					// verdicts began, or the past changed, right there.
					if objectives[i] != Availability {
						continue
					}
					enough, broken := o.broken(b.StartedAt)
					began := !lookable(i, b.StartedAt-1) || !enough[i] || lateAt[b.StartedAt]
					_, after := o.broken(b.StartedAt + 1)
					if !after[i] && !began || broken[i] && !began {
						t.Fatalf("%s: does not start at %s", b.Objective, b.StartedAt)
					}
				case Resolved:
					if open[b.Objective].ID != b.ID {
						t.Fatalf("%s: %s ended, but %s was open", b.Objective, b.ID, open[b.Objective].ID)
					}
					delete(open, b.Objective)
					if b.CloseReason == CloseExpired {
						continue
					}
					enough, broken := o.broken(*b.ResolvedAt)
					if (!enough[i] || broken[i]) && !lateAt[*b.ResolvedAt] {
						t.Fatalf("%s: broken at its end %s", b.Objective, b.ResolvedAt)
					}
					if _, before := o.broken(*b.ResolvedAt - 1); objectives[i] == Availability && !before[i] && lookable(i, *b.ResolvedAt-1) && !lateAt[*b.ResolvedAt] {
						t.Fatalf("%s: had ended before %s", b.Objective, b.ResolvedAt)
					}
				}
			}
		}
		compare := func(now Instant) {
			status, err := e.Status("a", LastHour)
			if err != nil {
				t.Fatal(err)
			}
			up, down, unknown := o.times(now, hour)
			if Instant(status.DownSeconds) != down || Instant(status.UnknownSeconds) != unknown {
				t.Fatalf("at %s: down %d, unknown %d, want %d and %d", now, status.DownSeconds, status.UnknownSeconds, down, unknown)
			}
			if up+down > 0 && math.Abs(*status.Metrics.UptimePercent-100*float64(up)/float64(up+down)) > 1e-6 {
				t.Fatalf("at %s: uptime %v, want %d of %d", now, *status.Metrics.UptimePercent, up, up+down)
			}
			n, failed, _, latencies := o.inWindow(now)
			if status.Metrics.TasksFailed != failed || status.Metrics.TasksCompleted != n-failed {
				t.Fatalf("at %s: %d completed and %d failed, want %d and %d", now, status.Metrics.TasksCompleted, status.Metrics.TasksFailed, n-failed, failed)
			}
			if len(latencies) > 0 {
				slices.Sort(latencies)
				exact := latencies[(95*len(latencies)+99)/100-1]
				got := *status.Metrics.LatencyP95MS
				if math.Abs(float64(got-exact)) > 0.0055*float64(exact)+0.5 || (got > oracleLimit) != (exact > oracleLimit) {
					t.Fatalf("at %s: p95 %d, want %d", now, got, exact)
				}
			}
			enough, broken := o.broken(now)
			for i, objective := range objectives {
				_, isOpen := open[objective]
				// A crossing at this very instant is strict only after it.
				if enough[i] && !frozen(objective, now) && isOpen != broken[i] {
					t.Fatalf("at %s: %s open %t, broken %t", now, objective, isOpen, broken[i])
				}
			}
		}

		check(e.Register(start, Registration{Agent: "a"}))
		limit := int64(oracleLimit)
		check(e.Promise(start, "a", &asap.SLADefinition{Availability: mustPercent("97.5%"), MaxLatencyP95MS: &limit, MaxErrorRate: mustPercent("4%")}))
		last := start
		var announced []Exclusion
		for i, ev := range drawEvents(t, start) {
			// Between events, at odd moments.
			for range 2 {
				if gap := ev.known - last; gap > 1 {
					last += 1 + gap/3
					check(e.Advance(last))
					compare(last)
				}
			}
			check(e.Advance(ev.known))
			switch what := ev.what.(type) {
			case oracleProbe:
				o.probes = append(o.probes, what)
				lateAt[ev.known] = lateAt[ev.known] || ev.at < ev.known
				check(e.Observe(ev.known, Probe{"a", ev.at, what.state, what.observer}))
			case oracleTask:
				if s := o.stateAt(what.at); s != stateExcluded {
					o.tasks = append(o.tasks, what)
				}
				outcome := Outcome{Agent: "a", TaskID: fmt.Sprint(i), At: what.at, Outcome: OutcomeCompleted, LatencyMS: &what.latency}
				if what.failed {
					outcome.Outcome, outcome.LatencyMS = OutcomeFailed, nil
				}
				check(e.Ingest(ev.known, outcome))
			case Exclusion:
				announced = append(announced, what)
				// The cap has tests of its own.
				if total := overlap(granted(announced, never), 0, never); total < policy.MaintenanceCap {
					o.windows = append(o.windows, interval{what.Start, what.End})
					check(e.Exclude(ev.known, "a", what))
				}
			}
			last = ev.known
			compare(last)
		}
		for range 10 {
			last += Instant(rapid.Int64Range(1, int64(30*minute)).Draw(t, "rest"))
			check(e.Advance(last))
			compare(last)
		}
	})
}
