package sla

import (
	"bytes"
	stdcmp "cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var noon = InstantOf(time.Date(2026, 2, 18, 12, 0, 0, 0, time.UTC))

// tester is what *testing.T, *testing.B and *rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
}

// feed is an engine that fails the test on any error, and collects events.
type feed struct {
	t      tester
	e      *Engine
	events []Event
}

func newFeed(t tester, policy Policy, buckets Buckets) *feed {
	e, err := NewEngine(policy, buckets)
	if err != nil {
		t.Fatal(err)
	}
	return &feed{t: t, e: e}
}

func (f *feed) take(events []Event, err error) []Event {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	f.events = append(f.events, events...)
	return events
}

func (f *feed) status(w Window) *Status {
	f.t.Helper()
	s, err := f.e.Status("a", w)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func promiseAll() *asap.SLADefinition {
	limit := int64(500)
	return &asap.SLADefinition{Availability: mustPercent("99.5%"), MaxLatencyP95MS: &limit, MaxErrorRate: mustPercent("1%")}
}

func testPolicy() Policy {
	p := DefaultPolicy()
	p.Windows = []Window{LastHour}
	p.ResolveAfter = 0
	return p
}

// apply plays the drawn events of the oracle's generator.
func (f *feed) apply(number int, ev oracleEvent) { f.applyTo("a", number, ev) }

func (f *feed) applyTo(agent string, number int, ev oracleEvent) {
	switch what := ev.what.(type) {
	case oracleProbe:
		f.take(f.e.Observe(ev.known, Probe{agent, ev.at, what.state, what.observer}))
	case oracleTask:
		o := Outcome{Agent: agent, TaskID: fmt.Sprint(number), At: what.at, Outcome: OutcomeCompleted, LatencyMS: &what.latency}
		if what.failed {
			o.Outcome, o.LatencyMS = OutcomeTimeout, nil
		}
		f.take(f.e.Ingest(ev.known, o))
	case Exclusion:
		f.take(f.e.Exclude(ev.known, agent, what))
	}
}

// B12, W7: an engine that is restored from a snapshot, written as JSON, goes on
// as if nothing had been; and telling it tasks again that it knows changes nothing.
func TestRestoredGoesOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := drawEvents(t, noon)
		cut := rapid.IntRange(0, len(events)).Draw(t, "cut")
		policy := testPolicy()
		policy.Windows = []Window{LastHour, LastDay}
		policy.For, policy.ResolveAfter = 20*second, 5*minute
		buckets := NewMemoryBuckets()
		whole, part := NewMemoryBuckets(), buckets
		run := func(buckets Buckets, cut int) (*Engine, []Event) {
			e, err := NewEngine(policy, buckets)
			if err != nil {
				t.Fatal(err)
			}
			f := &feed{t: t, e: e}
			f.take(e.Register(noon, Registration{Agent: "a"}))
			f.take(e.Promise(noon, "a", promiseAll()))
			for i, ev := range events {
				if i == cut {
					data, err := json.Marshal(f.e.Snapshot())
					if err != nil {
						t.Fatal(err)
					}
					var s Snapshot
					if err := json.Unmarshal(data, &s); err != nil {
						t.Fatal(err)
					}
					if f.e, err = Restore(policy, buckets, s); err != nil {
						t.Fatal(err)
					}
					for j, old := range events[:i] {
						if _, ok := old.what.(oracleTask); ok {
							old.known = events[max(0, i-1)].known
							f.apply(j, old)
						}
					}
				}
				f.apply(i, ev)
			}
			f.take(f.e.Advance(f.e.now + 3*hour))
			return f.e, f.events
		}
		one, events1 := run(whole, -1)
		two, events2 := run(part, cut)
		if diff := cmp.Diff(events1, events2, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("other events (-whole +restored):\n%s", diff)
		}
		if diff := cmp.Diff(one.Snapshot(), two.Snapshot(), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("another state (-whole +restored):\n%s", diff)
		}
		for w := range windowCount {
			x, _ := one.Status("a", w)
			y, _ := two.Status("a", w)
			if diff := cmp.Diff(x, y); diff != "" {
				t.Fatalf("another status of %s (-whole +restored):\n%s", w, diff)
			}
		}
		a, b := whole.All(), part.All()
		if len(a) != len(b) {
			t.Fatalf("%d buckets, want %d", len(b), len(a))
		}
		for i := range a {
			if a[i].Counts != b[i].Counts || !bytes.Equal(a[i].Sketch.Append(nil), b[i].Sketch.Append(nil)) {
				t.Fatalf("bucket %d: %v, want %v", i, b[i], a[i])
			}
		}
	})
}

// W7: the state of one agent may be newer than the rest of a snapshot, as it is
// when a node dies while it stores one.
func TestRestoredUnevenly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := map[string][]oracleEvent{"a": drawEvents(t, noon), "b": drawEvents(t, noon)}
		type told struct {
			agent string
			i     int
			oracleEvent
		}
		var all []told
		for agent, list := range events {
			for i, ev := range list {
				all = append(all, told{agent, i, ev})
			}
		}
		slices.SortStableFunc(all, func(x, y told) int {
			return stdcmp.Or(stdcmp.Compare(x.known, y.known), strings.Compare(x.agent, y.agent))
		})
		first := rapid.IntRange(0, len(all)).Draw(t, "first")
		second := rapid.IntRange(first, len(all)).Draw(t, "second")
		policy := testPolicy()
		policy.Windows, policy.ResolveAfter = []Window{LastHour, LastDay}, 5*minute
		start := func(buckets Buckets) *feed {
			e, err := NewEngine(policy, buckets)
			if err != nil {
				t.Fatal(err)
			}
			f := &feed{t: t, e: e}
			for _, agent := range []string{"a", "b"} {
				f.take(e.Register(noon, Registration{Agent: agent}))
				f.take(e.Promise(noon, agent, promiseAll()))
			}
			return f
		}
		whole, saved := NewMemoryBuckets(), NewMemoryBuckets()
		one := start(whole)
		var s Snapshot
		keep := func(agent string) { // what a part of a checkpoint holds
			for _, b := range whole.All() {
				if b.Agent == agent {
					b.Sketch = b.Sketch.Clone()
					_ = saved.Put(b) // cannot fail
				}
			}
		}
		look := func(i int) {
			if i == first {
				s = one.e.Snapshot()
				for j := range s.Seen {
					s.Seen[j].Keys = slices.Clone(s.Seen[j].Keys)
				}
				keep("a")
			}
			if i == second {
				for j := range s.Agents {
					if s.Agents[j].Agent == "b" {
						s.Agents[j], _ = one.e.AgentSnapshot("b")
					}
				}
				keep("b")
			}
		}
		for i, ev := range all {
			look(i)
			one.applyTo(ev.agent, ev.i, ev.oracleEvent)
		}
		look(len(all))
		restored, err := Restore(policy, saved, s)
		if err != nil {
			t.Fatal(err)
		}
		two := &feed{t: t, e: restored}
		for i := first; i < len(all); i++ {
			if ev := all[i]; ev.agent == "a" || i >= second {
				two.applyTo(ev.agent, ev.i, ev.oracleEvent)
			}
		}
		end := one.e.now + 3*hour
		one.take(one.e.Advance(end))
		two.take(two.e.Advance(end))
		x, y := one.e.Snapshot(), two.e.Snapshot()
		x.Seen, y.Seen = nil, nil // only what was told is
		if diff := cmp.Diff(x, y, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("another state (-whole +restored):\n%s", diff)
		}
		for _, agent := range []string{"a", "b"} {
			for w := range windowCount {
				x, _ := one.e.Status(agent, w)
				y, _ := two.e.Status(agent, w)
				if diff := cmp.Diff(x, y); diff != "" {
					t.Fatalf("another status of %s in %s (-whole +restored):\n%s", agent, w, diff)
				}
			}
		}
	})
}

// B14: engines that see the same give a breach the same id.
func TestReplicasAgreeOnIDs(t *testing.T) {
	var ids []string
	for range 2 {
		f := newFeed(t, testPolicy(), NewMemoryBuckets())
		f.take(f.e.Register(noon, Registration{Agent: "a"}))
		f.take(f.e.Promise(noon, "a", promiseAll()))
		for i := range 40 {
			f.take(f.e.Ingest(noon+Instant(i)*second, Outcome{Agent: "a", At: noon + Instant(i)*second, Outcome: OutcomeTimeout}))
		}
		if len(f.events) != 1 || f.events[0].Breach.N != 20 || f.events[0].Breach.Bad != 20 || *f.events[0].Breach.WilsonPercent < 80 {
			t.Fatalf("%+v", f.events)
		}
		ids = append(ids, f.events[0].Breach.ID)
	}
	if ids[0] != ids[1] || len(ids[0]) != len("breach_")+32 {
		t.Errorf("ids %v", ids)
	}
	if breachID("a", Latency, LastHour, 1) == breachID("a", Latency, LastDay, 1) {
		t.Error("two windows, one id")
	}
}

// A promise that is broken again within ResolveAfter continues the breach; five
// times within an hour is flapping.
func TestFlapping(t *testing.T) {
	policy := testPolicy()
	policy.ResolveAfter, policy.MinTasks = 10*minute, 1
	f := newFeed(t, policy, NewMemoryBuckets())
	f.take(f.e.Register(noon, Registration{Agent: "a"}))
	f.take(f.e.Promise(noon, "a", &asap.SLADefinition{MaxErrorRate: mustPercent("50%")}))
	now := noon
	for range 7 { // one fails: broken; one succeeds: kept, as half is allowed
		for _, outcome := range []string{OutcomeTimeout, OutcomeCompleted} {
			now += minute
			f.take(f.e.Ingest(now, Outcome{Agent: "a", At: now, Outcome: outcome}))
		}
	}
	s := f.status(LastHour)
	if len(s.OpenBreaches) != 1 || s.OpenBreaches[0].Flaps != 6 || !s.OpenBreaches[0].Flapping || s.OpenBreaches[0].Status != "resolving" {
		t.Fatalf("%+v", s.OpenBreaches)
	}
	f.take(f.e.Remove(now+minute, "a"))
	last := f.events[len(f.events)-1].Breach
	// All tasks failed at first, which is twice the promise: critical from the start.
	if len(f.events) != 2 || f.events[0].Kind != Firing || f.events[0].Breach.Severity != Critical {
		t.Fatalf("%+v", f.events)
	}
	if last.CloseReason != CloseAgentRemoved || *last.ResolvedAt != now || last.Flaps != 6 || last.ActualWorst != "100.0%" {
		t.Errorf("%+v", last)
	}
}

// An agent that is removed and comes back begins anew, whatever is still stored.
func TestComesBackAnew(t *testing.T) {
	f := newFeed(t, testPolicy(), NewMemoryBuckets())
	at := func(d Instant) Instant { return noon + d }
	f.take(f.e.Register(noon, Registration{Agent: "a", ProbeInterval: time.Minute, TTL: 10 * time.Minute}))
	f.take(f.e.Observe(at(second), Probe{"a", at(second), StateUp, ""}))
	f.take(f.e.Ingest(at(2*second), Outcome{Agent: "a", At: at(2 * second), Outcome: OutcomeTimeout}))
	f.take(f.e.Advance(at(2 * minute)))
	f.take(f.e.Remove(at(3*minute), "a"))
	f.take(f.e.Ingest(at(3*minute), Outcome{Agent: "a", At: at(3 * minute), Outcome: OutcomeTimeout}))
	if s := f.status(LastHour); s.Metrics.TasksFailed != 1 || *s.Metrics.UptimePercent != 100 || s.UnknownSeconds != second {
		t.Errorf("after its removal: %+v", s)
	}
	f.take(f.e.Register(at(4*minute), Registration{Agent: "a"}))
	f.take(f.e.Ingest(at(4*minute), Outcome{Agent: "a", At: at(4 * minute), Outcome: OutcomeCompleted}))
	f.take(f.e.Advance(at(70 * minute)))
	if s := f.status(LastDay); s.Metrics.TasksFailed != 0 || s.Metrics.TasksCompleted != 1 {
		t.Errorf("back again: %+v", s.Metrics)
	}
	if s := f.status(LastHour); s.Metrics.TasksFailed != 0 || s.Metrics.TasksCompleted != 0 {
		t.Errorf("an hour later: %+v", s.Metrics)
	}
	f.take(f.e.Advance(at(60 * day)))
	for w := range windowCount {
		if s := f.status(w); s.Metrics.TasksCompleted != 0 || s.Metrics.TasksFailed != 0 {
			t.Errorf("two months later, %s: %+v", w, s.Metrics)
		}
	}
	if at, ok := f.e.NextDue(); ok {
		t.Errorf("something is due at %s", at)
	}
}

// A new promise of latency derives the past from sketches; what leaves the windows
// later is taken out as it was put in.
func TestNewLatencyPromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		buckets := NewMemoryBuckets()
		f := newFeed(t, testPolicy(), buckets)
		f.take(f.e.Register(noon, Registration{Agent: "a"}))
		now := noon
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now += Instant(rapid.Int64Range(0, int64(10*minute)).Draw(t, "gap"))
			if rapid.IntRange(0, 4).Draw(t, "kind") == 0 {
				limit := rapid.SampledFrom([]int64{0, 1, 100, 333, 1000, int64(2 * day)}).Draw(t, "limit")
				def := &asap.SLADefinition{MaxLatencyP95MS: &limit}
				if rapid.Bool().Draw(t, "none") {
					def = nil
				}
				f.take(f.e.Promise(now, "a", def))
				continue
			}
			ms := rapid.Int64Range(0, 1500).Draw(t, "latency")
			at := max(noon, now-Instant(rapid.SampledFrom([]int64{0, 0, 0, int64(3 * minute), int64(2 * hour)}).Draw(t, "late")))
			f.take(f.e.Ingest(now, Outcome{Agent: "a", At: at, Outcome: OutcomeCompleted, LatencyMS: &ms}))
			for w := range windowCount {
				sum := &f.e.agents["a"].sums[w]
				if sum.Slow < 0 || sum.Slow2 < 0 || sum.Slow > sum.Timed || sum.Slow2 > sum.Timed || sum.Timed != int64(sum.sketch.Count()) {
					t.Fatalf("%s: %+v of %d", w, sum.Counts, sum.sketch.Count())
				}
			}
		}
		f.take(f.e.Advance(now + 40*day))
		for l := range f.e.agents["a"].sums {
			if sum := &f.e.agents["a"].sums[l]; sum.Counts != (Counts{}) || sum.sketch.Count() != 0 {
				t.Fatalf("span %d still holds %+v", l, sum.Counts)
			}
		}
		for _, b := range buckets.All() {
			if b.Tier != TierDay {
				t.Fatalf("still stored: %+v", b)
			}
		}
	})
}

// Burn rates and the pace at which a budget is used up.
func TestBurn(t *testing.T) {
	f := newFeed(t, testPolicy(), NewMemoryBuckets())
	f.take(f.e.Register(noon-40*day, Registration{Agent: "a"}))
	limit := int64(500)
	f.take(f.e.Promise(noon-40*day, "a", &asap.SLADefinition{MaxErrorRate: mustPercent("10%"), MaxLatencyP95MS: &limit, Availability: mustPercent("100%")}))
	ms := int64(10)
	for i := range Instant(1000) {
		at := noon - 2*hour - 30*second + i*50
		f.take(f.e.Ingest(at, Outcome{Agent: "a", At: at, Outcome: OutcomeCompleted, LatencyMS: &ms}))
	}
	f.take(f.e.Observe(noon-minute, Probe{"a", noon - minute, StateUp, ""}))
	for i := range Instant(100) {
		at := noon - minute + i
		o := Outcome{Agent: "a", At: at, Outcome: OutcomeCompleted, LatencyMS: &ms}
		if i < 20 {
			o.Outcome, o.LatencyMS = OutcomeTimeout, nil
		}
		f.take(f.e.Ingest(at, o))
	}
	f.take(f.e.Advance(noon))
	errors := f.status(LastDay).Objectives[2]
	if *errors.BurnRate5m != 2 || *errors.BurnRate1h != 2 || *errors.BurnRate6h != 0.181818 || *errors.BudgetRemaining != 0.818182 {
		t.Errorf("%+v", errors)
	}
	// 81.8 % of the budget of a day, used up twice as fast as allowed.
	if want := noon + 818_182*day/2_000_000; errors.ProjectedBreachAt == nil || *errors.ProjectedBreachAt-want > 1 || want-*errors.ProjectedBreachAt > 1 {
		t.Errorf("projected %s, want %s", errors.ProjectedBreachAt, want)
	}
	f.take(f.e.Observe(noon, Probe{"a", noon, StateDown, ""}))
	f.take(f.e.Advance(noon + 30*second))
	up := f.status(LastHour).Objectives[0]
	if up.BudgetRemaining != nil || up.BurnRate1h != nil {
		t.Errorf("nothing may go wrong, and did: %+v", up)
	}
}

// Projection goes through what leaves the window.
func TestProjectedThroughPast(t *testing.T) {
	f := newFeed(t, testPolicy(), NewMemoryBuckets())
	f.take(f.e.Register(noon-2*hour, Registration{Agent: "a", TTL: 3 * time.Hour}))
	f.take(f.e.Promise(noon-2*hour, "a", &asap.SLADefinition{Availability: mustPercent("50%")}))
	// Down from 11:00 to 11:20, then up until noon, then down.
	for _, p := range []Probe{{"a", noon - 2*hour, StateUp, ""}, {"a", noon - hour, StateDown, ""}, {"a", noon - 40*minute, StateUp, ""}, {"a", noon, StateDown, ""}} {
		f.take(f.e.Observe(p.At, p))
	}
	f.take(f.e.Advance(noon + minute))
	got := f.status(LastHour).Objectives[0].ProjectedBreachAt
	// Until 12:20 as much down time leaves as comes; at 12:20 it is 20 minutes,
	// and 10 minutes later half.
	if got == nil || *got != noon+30*minute {
		t.Errorf("projected %v, want %s", got, noon+30*minute)
	}
	if events := f.take(f.e.Advance(noon + 31*minute)); len(events) != 1 || events[0].At != noon+30*minute {
		t.Errorf("%+v", events)
	}
	f.take(f.e.Promise(noon+31*minute, "a", &asap.SLADefinition{Availability: mustPercent("0%")}))
	if got := f.status(LastHour).Objectives[0]; got.ProjectedBreachAt != nil || !*got.Met {
		t.Errorf("nothing promised, projected: %+v", got)
	}
}

// failing is a Buckets that fails.
type failing struct {
	*MemoryBuckets
	put, get, scan, expire error
}

func (b *failing) Put(x Bucket) error { return errors.Join(b.put, b.MemoryBuckets.Put(x)) }
func (b *failing) Get(tier Tier, start Instant, agent string) (Bucket, bool, error) {
	x, ok, err := b.MemoryBuckets.Get(tier, start, agent)
	return x, ok, errors.Join(b.get, err)
}
func (b *failing) Scan(tier Tier, start Instant) iter.Seq2[Bucket, error] {
	if b.scan != nil {
		return func(yield func(Bucket, error) bool) { yield(Bucket{}, b.scan) }
	}
	return b.MemoryBuckets.Scan(tier, start)
}
func (b *failing) Expire(tier Tier, before Instant) error {
	return errors.Join(b.expire, b.MemoryBuckets.Expire(tier, before))
}

// No error of the store is lost, and none looks like a refused event.
func TestStoreErrorsAreReported(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, c := range map[string]func(b *failing, e *Engine) error{
		"put": func(b *failing, e *Engine) error {
			b.put = broken
			_, err := e.Advance(noon + 3*minute)
			return err
		},
		"put on the way": func(b *failing, e *Engine) error {
			b.put = broken
			_, err := e.Observe(noon+minute, Probe{"a", noon + minute, StateUp, ""})
			if err != nil {
				return err
			}
			_, err = e.Ingest(noon+minute+1, Outcome{Agent: "a", At: noon + minute + 1, Outcome: OutcomeCompleted})
			return err
		},
		"get": func(b *failing, e *Engine) error {
			if _, err := e.Advance(noon + 3*minute); err != nil {
				return err
			}
			b.get = broken
			_, err := e.Ingest(noon+3*minute, Outcome{Agent: "a", At: noon + 1, Outcome: OutcomeCompleted})
			return err
		},
		"put late": func(b *failing, e *Engine) error {
			if _, err := e.Ingest(noon+3*minute, Outcome{Agent: "a", At: noon + 3*minute, Outcome: OutcomeCompleted}); err != nil {
				return err
			}
			b.put = broken
			_, err := e.Ingest(noon+3*minute, Outcome{Agent: "a", At: noon + 1, Outcome: OutcomeCompleted})
			return err
		},
		"scan": func(b *failing, e *Engine) error {
			b.scan = broken
			_, err := e.Advance(noon + 2*hour)
			return err
		},
		"expire": func(b *failing, e *Engine) error {
			b.expire = broken
			_, err := e.Advance(noon + 2*hour)
			return err
		},
		"restore": func(b *failing, e *Engine) error {
			s := e.Snapshot()
			b.scan = broken
			_, err := Restore(testPolicy(), b, s)
			return err
		},
	} {
		b := &failing{MemoryBuckets: NewMemoryBuckets()}
		f := newFeed(t, testPolicy(), b)
		f.take(f.e.Register(noon, Registration{Agent: "a"}))
		f.take(f.e.Ingest(noon+1, Outcome{Agent: "a", At: noon + 1, Outcome: OutcomeCompleted}))
		if err := c(b, f.e); !errors.Is(err, broken) || errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefused(t *testing.T) {
	f := newFeed(t, testPolicy(), NewMemoryBuckets())
	f.take(f.e.Register(noon, Registration{Agent: "a"}))
	before := f.e.Snapshot()
	for name, err := range map[string]error{
		"no agent":      second1(f.e.Register(noon, Registration{})),
		"backwards":     second1(f.e.Advance(noon - 1)),
		"unknown agent": second1(f.e.Promise(noon, "b", nil)),
		"odd state":     second1(f.e.Observe(noon, Probe{"a", noon, stateExcluded, ""})),
		"before":        second1(f.e.Observe(noon, Probe{"a", noon - 1, StateUp, ""})),
		"task before":   second1(f.e.Ingest(noon, Outcome{Agent: "a", At: noon - 1, Outcome: OutcomeCompleted})),
		"status":        second1(f.e.Status("b", LastHour)),
	} {
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if diff := cmp.Diff(before, f.e.Snapshot()); diff != "" {
		t.Errorf("what was refused left traces:\n%s", diff)
	}
	// Late beyond all limits is no error, but is told.
	f.take(f.e.Advance(noon + 3*day))
	f.take(f.e.Observe(noon+3*day, Probe{"a", noon, StateUp, ""}))
	f.take(f.e.Ingest(noon+3*day, Outcome{Agent: "a", At: noon, Outcome: OutcomeCompleted}))
	if s := f.status(LastMonth); s.LateDropped != 2 || s.Metrics.TasksCompleted != 0 {
		t.Errorf("%+v", s)
	}
	for _, p := range []Policy{{}, {Windows: []Window{9}, MinTasks: 1}, {Windows: []Window{0}, MinTasks: 1, LateTasks: 3 * day}} {
		if _, err := NewEngine(p, nil); err == nil {
			t.Errorf("%+v was taken", p)
		}
		if _, err := Restore(p, nil, Snapshot{}); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
	if s, ok := f.e.AgentSnapshot("a"); !ok || s.Agent != "a" {
		t.Error("no snapshot of the agent")
	}
	if _, ok := f.e.AgentSnapshot("b"); ok {
		t.Error("a snapshot of nobody")
	}
}

func second1[T any](_ T, err error) error { return err }

func TestImpossibleSnapshots(t *testing.T) {
	f := newFeed(t, testPolicy(), NewMemoryBuckets())
	f.take(f.e.Register(noon, Registration{Agent: "a"}))
	for name, spoil := range map[string]func(a *AgentState){
		"sla":      func(a *AgentState) { a.SLA = []byte(`{"availability":"x"}`) },
		"zone":     func(a *AgentState) { a.Zone = "Mars/Olympus" },
		"no state": func(a *AgentState) { a.Transitions = nil },
		"tier":     func(a *AgentState) { a.Open = []OpenBucket{{Tier: 9}} },
		"sketch":   func(a *AgentState) { a.Open = []OpenBucket{{Sketch: []byte{9}}} },
		"tracker":  func(a *AgentState) { a.Trackers = []TrackerState{{Objective: "luck"}} },
		"breach":   func(a *AgentState) { a.Trackers = []TrackerState{{Objective: Latency, Phase: uint8(phaseFiring)}} },
	} {
		s := f.e.Snapshot()
		spoil(&s.Agents[0])
		if _, err := Restore(testPolicy(), NewMemoryBuckets(), s); err == nil {
			t.Errorf("%s: was restored", name)
		}
	}
}
