package slawatch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// scripted is a store in a file whose tasks are made up.
type scripted struct {
	*sqlite.Store
	ends []slawatch.TaskEnd
	took []time.Duration // of each part of a checkpoint
}

func (s *scripted) TaskEnds(_ context.Context, after, _ int64, limit int) ([]slawatch.TaskEnd, int64, error) {
	list := s.ends[min(after, int64(len(s.ends))):]
	list = list[:min(limit, len(list))]
	return list, after + int64(len(list)), nil
}

func (s *scripted) CheckpointSLA(ctx context.Context, c *slawatch.Checkpoint) error {
	began := time.Now()
	defer func() { s.took = append(s.took, time.Since(began)) }()
	return s.Store.CheckpointSLA(ctx, c)
}

type noRecorder struct{}

func (noRecorder) RecordBreaches(context.Context, []sla.Event) ([]ledger.BreachChange, error) {
	return nil, errors.New("a breach")
}

// BenchmarkWatchMemory measures a live watch over SQLite: what it takes in memory
// for an agent with four windows, a promise, probe results and latencies of 40
// different bins in two buckets of minutes, and how long one part of a checkpoint
// keeps the store's write lock. The limit is 700 MiB for 100,000 agents.
// ASAP_BENCH_AGENTS is how many there are; 10,000 without it.
func BenchmarkWatchMemory(b *testing.B) {
	agents := 10_000
	if text := os.Getenv("ASAP_BENCH_AGENTS"); text != "" {
		var err error
		if agents, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	def := promise(b, promised)
	for b.Loop() {
		store, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "asap.db"), sqlite.Options{})
		if err != nil {
			b.Fatal(err)
		}
		s := &scripted{Store: store}
		now := time.Date(2026, 2, 18, 12, 0, 0, 0, time.UTC)
		before := memory()
		w, err := slawatch.Open(b.Context(), s, store, slawatch.Options{Now: func() time.Time { return now }, CheckpointEvery: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		ids := make([]string, agents)
		for i := range ids {
			ids[i] = fmt.Sprintf("urn:asap:agent:%d", i)
			w.SetAgent(slawatch.Agent{ID: ids[i], SLA: def})
		}
		const rounds = 40
		step := func() {
			if err := w.Step(b.Context(), noRecorder{}); err != nil {
				b.Fatal(err)
			}
		}
		step()
		for k := range rounds {
			now = now.Add(3 * time.Second)
			ms := int64(20 + 10*k)
			s.ends = slices.Grow(s.ends, agents)
			for i, id := range ids {
				if k%10 == 0 {
					w.Probed(id, "p1", sla.StateUp, now)
				}
				s.ends = append(s.ends, slawatch.TaskEnd{Record: int64(len(s.ends) + 1), Agent: id, TaskID: "t", Outcome: sla.OutcomeCompleted,
					EndedAt: sla.InstantOf(now), DurationMS: &ms, Observed: true})
				if i%10_000 == 9_999 {
					step()
				}
			}
			for !w.Idle() || w.Taken() < int64(len(s.ends)) {
				step()
			}
		}
		s.ends = nil
		full := memory() // with what is not stored yet
		s.took = nil
		parts, err := w.KeepParts(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		after := memory()
		slices.Sort(s.took)
		b.ReportMetric(float64(full-before)/float64(agents), "bytes/agent-before-checkpoint")
		b.ReportMetric(float64(after-before)/float64(agents), "bytes/agent")
		b.ReportMetric(float64(full-before)/float64(agents)*100_000/(1<<20), "MiB/100k-agents")
		b.ReportMetric(float64(len(s.took)), "parts")
		b.ReportMetric(float64(s.took[len(s.took)/2].Microseconds())/1000, "ms/part-p50")
		b.ReportMetric(float64(s.took[len(s.took)*99/100].Microseconds())/1000, "ms/part-p99")
		slices.Sort(parts)
		b.ReportMetric(float64(parts[len(parts)*99/100].Microseconds())/1000, "ms/part-with-engine-p99")
		runtime.KeepAlive(w)
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
}
