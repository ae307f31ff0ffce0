package slawatch_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// BenchmarkCostToTasks is what watching costs those who work: 64 callers admit and
// settle tasks on a ledger that is watched and on one that is not, in turns. The
// metric is the ratio of the medians of the time that 640 tasks take.
func BenchmarkCostToTasks(b *testing.B) {
	type side struct {
		ledger *ledger.Ledger
		took   []time.Duration
	}
	open := func(watched bool) *side {
		store, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "asap.db"), sqlite.Options{})
		if err != nil {
			b.Fatal(err)
		}
		o := ledger.Options{Origin: "urn:asap:agent:node", Operator: "urn:asap:agent:node"}
		var watch *slawatch.Watch
		if watched {
			if watch, err = slawatch.Open(b.Context(), store, store, slawatch.Options{Now: time.Now}); err != nil {
				b.Fatal(err)
			}
			watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(b, promised)})
			o.Committed = func(ledger.Batch) { watch.Wake() }
		}
		l, err := ledger.Open(b.Context(), store, o)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 2)
		go func() { done <- l.Run(ctx) }()
		watchCtx, stopWatch := context.WithCancel(context.Background())
		go func() {
			if watch == nil {
				done <- nil
				return
			}
			done <- watch.Run(watchCtx, l)
		}()
		b.Cleanup(func() {
			stopWatch()
			first := <-done
			cancel()
			if err := errors.Join(first, <-done, store.Close()); err != nil {
				b.Error(err)
			}
		})
		return &side{ledger: l}
	}
	tasks := 0
	work := func(s *side) {
		var parts sync.WaitGroup
		began := time.Now()
		for range 64 {
			from := tasks
			tasks += 10
			parts.Go(func() {
				for i := range 10 {
					id := asap.TaskID(fmt.Sprintf("task-%d", from+i))
					if _, err := s.ledger.Admit(b.Context(), ledger.Admission{TaskID: id, Consumer: consumer, EnvelopeID: asap.EnvelopeID("e-" + string(id)), Agent: agentX, Skill: "echo"}); err != nil {
						b.Error(err)
						return
					}
					if _, err := s.ledger.Settle(b.Context(), ledger.Settlement{TaskID: id, Record: metering.Record{Outcome: metering.Completed,
						DurationMS: new(int64(100)), Timestamp: time.Now().UTC(), Evidence: metering.Observed}}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		parts.Wait()
		s.took = append(s.took, time.Since(began))
	}
	sides := []*side{open(true), open(false)}
	for b.Loop() {
		for _, s := range sides {
			work(s)
		}
	}
	median := func(s *side) float64 { slices.Sort(s.took); return float64(s.took[len(s.took)/2]) }
	b.ReportMetric(median(sides[0])/median(sides[1]), "watched/unwatched")
	b.ReportMetric(640/(median(sides[0])/1e9), "tasks/s-watched")
	b.ReportMetric(0, "ns/op")
}
