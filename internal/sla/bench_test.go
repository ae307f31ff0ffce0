package sla

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
)

// loaded is an engine with one agent that ended n tasks within the last month.
func loaded(b *testing.B, n int) *Engine {
	f := newFeed(b, DefaultPolicy(), NewMemoryBuckets())
	start := noon - 30*day
	f.take(f.e.Register(start, Registration{Agent: "a"}))
	f.take(f.e.Promise(start, "a", promiseAll()))
	for i := range n {
		at := start + Instant(i+1)*(30*day)/Instant(n+1)
		ms := int64(i) * 7919 % 2000
		f.take(f.e.Ingest(at, Outcome{Agent: "a", At: at, Outcome: OutcomeCompleted, LatencyMS: &ms}))
	}
	f.take(f.e.Advance(noon))
	return f.e
}

// BenchmarkStatus is P9: the status of a month with 10^3 and with 10^6 tasks, in
// turns; the metric is the ratio of the medians.
func BenchmarkStatus(b *testing.B) {
	engines := []*Engine{loaded(b, 1_000), loaded(b, 1_000_000)}
	took := make([][]time.Duration, len(engines))
	for b.Loop() {
		for i, e := range engines {
			start := time.Now()
			for range 10 {
				if _, err := e.Status("a", LastMonth); err != nil {
					b.Fatal(err)
				}
			}
			took[i] = append(took[i], time.Since(start)/10)
		}
	}
	median := func(i int) float64 { slices.Sort(took[i]); return float64(took[i][len(took[i])/2]) }
	b.ReportMetric(median(0), "ns-at-1e3")
	b.ReportMetric(median(1)/median(0), "1e6/1e3")
}

func BenchmarkIngest(b *testing.B) {
	f := newFeed(b, DefaultPolicy(), NewMemoryBuckets())
	f.take(f.e.Register(noon, Registration{Agent: "a"}))
	f.take(f.e.Promise(noon, "a", promiseAll()))
	now, n := noon, 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		now += 10
		ms := int64(n) * 7919 % 2000
		f.take(f.e.Ingest(now, Outcome{Agent: "a", TaskID: fmt.Sprint(n), At: now, Outcome: OutcomeCompleted, LatencyMS: &ms}))
	}
}

func BenchmarkObserve(b *testing.B) {
	f := newFeed(b, DefaultPolicy(), NewMemoryBuckets())
	f.take(f.e.Register(noon, Registration{Agent: "a"}))
	f.take(f.e.Promise(noon, "a", promiseAll()))
	now, n := noon, 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		now += 30 * second
		state := StateUp
		if n%100 == 0 {
			state = StateDown
		}
		f.take(f.e.Observe(now, Probe{"a", now, state, "p1"}))
	}
}

// discard keeps no buckets, as a node keeps them on disk.
type discard struct{ *MemoryBuckets }

func (discard) Put(Bucket) error { return nil }

// BenchmarkMemory measures what an agent takes in memory with four windows, an
// hour of probe results and latencies of 40 different bins: the limit is 700 MiB
// for 100,000, which is 7,340 bytes each.
func BenchmarkMemory(b *testing.B) {
	const agents = 20_000
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := memory()
		policy := DefaultPolicy()
		policy.LateProbes = 15 * minute
		e, err := NewEngine(policy, discard{NewMemoryBuckets()})
		if err != nil {
			b.Fatal(err)
		}
		f := &feed{t: b, e: e}
		for i := range agents {
			f.take(e.Register(noon, Registration{Agent: fmt.Sprintf("urn:asap:agent:%d", i)}))
			f.take(e.Promise(noon, fmt.Sprintf("urn:asap:agent:%d", i), promiseAll()))
		}
		for k := range 40 {
			now := noon + Instant(k)*30*second
			for i := range agents {
				id := fmt.Sprintf("urn:asap:agent:%d", i)
				f.take(e.Observe(now, Probe{id, now, StateUp, "p1"}))
				ms := int64(20 + 10*k)
				f.take(e.Ingest(now, Outcome{Agent: id, At: now, Outcome: OutcomeCompleted, LatencyMS: &ms}))
			}
		}
		after := memory()
		b.ReportMetric(float64(after-before)/agents, "bytes/agent")
		b.ReportMetric(float64(after-before)/agents*100_000/(1<<20), "MiB/100k-agents")
		runtime.KeepAlive(e)
	}
}
