package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// BenchmarkSummary is P12: totals over all time and by agent, of 10,000 records
// and of many more (ASAP_BENCH_RECORDS, 100,000 if unset), spread over 30 days,
// 10 agents and 10 consumers.
func BenchmarkSummary(b *testing.B) {
	many := 100_000
	if text := os.Getenv("ASAP_BENCH_RECORDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		many = n
	}
	stores := map[int]*sqlite.Store{10_000: filled(b, 10_000), many: filled(b, many)}
	for _, dims := range []struct {
		name string
		dims metering.Dims
	}{{"total", 0}, {"by agent", metering.ByAgent}, {"by hour", metering.ByHour}} {
		took := map[int]time.Duration{}
		for _, n := range []int{10_000, many} {
			b.Run(fmt.Sprintf("%s/%d", dims.name, n), func(b *testing.B) {
				started := time.Now()
				for b.Loop() {
					var tasks int64
					for row, err := range stores[n].Rollups(b.Context(), metering.Filter{}, dims.dims) {
						if err != nil {
							b.Fatal(err)
						}
						tasks += row.Tasks
					}
					if tasks != int64(n) {
						b.Fatalf("%d tasks, want %d", tasks, n)
					}
				}
				took[n] = time.Since(started) / time.Duration(b.N)
				if took[10_000] > 0 {
					b.ReportMetric(float64(took[n])/float64(took[10_000]), "ratio")
				}
			})
		}
	}
}

// filled is a store of n reported records.
func filled(b *testing.B, n int) *sqlite.Store {
	b.Helper()
	store, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "asap.db"), sqlite.Options{})
	if err != nil {
		b.Fatal(err)
	}
	l, err := ledger.Open(b.Context(), store, ledger.Options{Origin: "bench.example/log"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	stopped := make(chan error)
	go func() { stopped <- l.Run(ctx) }()
	b.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	})
	now := time.Now().UTC().Truncate(time.Hour)
	for at := 0; at < n; at += ledger.MaxBatch {
		batch := make([]ledger.Report, min(ledger.MaxBatch, n-at))
		for i := range batch {
			k := at + i
			batch[i].Record = metering.Record{ID: fmt.Sprintf("rep_%09d", k), Kind: metering.Usage, TaskID: asap.TaskID(fmt.Sprintf("own_%09d", k)),
				Agent: asap.AgentURN(fmt.Sprintf("urn:asap:agent:worker-%d", k%10)), Consumer: asap.AgentURN(fmt.Sprintf("urn:asap:agent:consumer-%d", k/10%10)),
				Outcome: metering.Completed, Evidence: metering.SelfReported, TokensIn: new(int64(k % 1000)), TokensOut: new(int64(k % 77)), DurationMS: new(int64(5)),
				Timestamp: now.Add(-time.Duration(k%(30*24*60)) * time.Minute)}
		}
		if _, err := l.Record(b.Context(), batch, ledger.Atomic); err != nil {
			b.Fatal(err)
		}
	}
	stop()
	if err := <-stopped; err != nil {
		b.Fatal(err)
	}
	return store
}
