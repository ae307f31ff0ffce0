package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sqlite"
	"github.com/go-json-experiment/json/jsontext"
)

// BenchmarkTaskOverhead is P2: what the ledger adds to one task of one caller.
// The same agent is asked with and without it in turn, over loopback HTTP, and
// the cost of one fsync of this machine is measured beside them. Figures are
// medians in microseconds.
func BenchmarkTaskOverhead(b *testing.B) {
	n, _ := start(b, testConfig(b.TempDir()), counter(new(atomic.Int64)))
	bare, err := agent.NewServer(agent.Config{
		Agents: []*agent.Agent{counter(new(atomic.Int64))}, Ledger: agent.Unmetered(), AllowUnverified: agent.FromLoopback,
	})
	if err != nil {
		b.Fatal(err)
	}
	plain := httptest.NewServer(bare.Handler())
	b.Cleanup(func() {
		plain.Close()
		if err := bare.Shutdown(context.Background()); err != nil {
			b.Error(err)
		}
	})
	file, err := os.Create(filepath.Join(b.TempDir(), "fsync"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	clients := []*client.Client{newClient(b, n)}
	if c, err := client.New(plain.URL, client.WithSender(callerURN)); err != nil {
		b.Fatal(err)
	} else {
		b.Cleanup(c.Close)
		clients = append(clients, c)
	}
	call := client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}
	var with, without, syncs []time.Duration
	for b.Loop() {
		for i, c := range clients {
			begin := time.Now()
			if _, err := c.Task(b.Context(), call); err != nil {
				b.Fatal(err)
			}
			if took := time.Since(begin); i == 0 {
				with = append(with, took)
			} else {
				without = append(without, took)
			}
		}
		begin := time.Now()
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			b.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			b.Fatal(err)
		}
		syncs = append(syncs, time.Since(begin))
	}
	b.ReportMetric(micros(with), "µs/with")
	b.ReportMetric(micros(without), "µs/without")
	b.ReportMetric(micros(with)-micros(without), "µs/added")
	b.ReportMetric(micros(syncs), "µs/fsync")
	b.ReportMetric(0, "ns/op")
}

// micros is the median in microseconds.
func micros(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Nanoseconds()) / 1000
}

// records is how many records the benchmarks of reports work on:
// ASAP_BENCH_RECORDS, or 100,000.
func records(b *testing.B) int {
	text := os.Getenv("ASAP_BENCH_RECORDS")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 10_000 {
		b.Fatalf("ASAP_BENCH_RECORDS=%q is not a number of at least 10000", text)
	}
	return n
}

// fill makes a data directory with n records of 10 agents, 10 consumers and 2
// skills, spread over 34 days.
func fill(b *testing.B, n int) string {
	b.Helper()
	dir := b.TempDir()
	store, err := sqlite.Open(b.Context(), filepath.Join(dir, LedgerFile), sqlite.Options{})
	if err != nil {
		b.Fatal(err)
	}
	l, err := ledger.Open(b.Context(), store, ledger.Options{Origin: "bench.example/log"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	end := time.Now().UTC().Truncate(time.Hour)
	span := 34 * 24 * time.Hour
	in, out, calls := int64(1200), int64(340), int64(2)
	for i := 0; i < n; {
		batch := make([]ledger.Report, min(ledger.MaxBatch, n-i))
		for j := range batch {
			k := i + j
			batch[j].Record = metering.Record{
				ID: fmt.Sprintf("r%09d", k), TaskID: asap.TaskID(fmt.Sprintf("t%09d", k)),
				Agent:    asap.AgentURN(fmt.Sprintf("urn:asap:agent:worker-%d", k%10)),
				Consumer: asap.AgentURN(fmt.Sprintf("urn:asap:agent:customer-%d", k/10%10)),
				Skill:    [...]string{"search", "write"}[k/100%2], Outcome: metering.Completed, Evidence: metering.SelfReported,
				TokensIn: &in, TokensOut: &out, APICalls: &calls, DurationMS: new(int64(k % 5000)),
				Timestamp: end.Add(-span + time.Duration(float64(span)*float64(k)/float64(n))).Truncate(time.Microsecond),
			}
		}
		if _, err := l.Record(b.Context(), batch, ledger.Atomic); err != nil {
			b.Fatal(err)
		}
		i += len(batch)
	}
	stop()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if err := store.Close(); err != nil {
		b.Fatal(err)
	}
	return dir
}

// BenchmarkReports is P12: summary and aggregate over many records against the
// same over 10,000, asked in turn through the REST interface.
func BenchmarkReports(b *testing.B) {
	many, few := records(b), 10_000
	handlers := map[int]http.Handler{}
	for _, n := range []int{few, many} {
		r, err := OpenReadOnly(b.Context(), fill(b, n))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = r.Close() })
		handlers[n] = r.Handler()
	}
	for _, path := range []string{"/usage/summary", "/usage/aggregate?group_by=agent", "/usage/aggregate?group_by=day", "/usage/aggregate?group_by=agent,month"} {
		b.Run(path[len("/usage/"):], func(b *testing.B) {
			var took = map[int][]time.Duration{}
			for b.Loop() {
				for _, n := range []int{few, many} {
					begin := time.Now()
					w := httptest.NewRecorder()
					handlers[n].ServeHTTP(w, httptest.NewRequestWithContext(b.Context(), http.MethodGet, path, nil))
					if w.Code != http.StatusOK {
						b.Fatal(w.Body)
					}
					took[n] = append(took[n], time.Since(begin))
				}
			}
			b.ReportMetric(micros(took[many])/1000, "ms")
			b.ReportMetric(micros(took[many])/micros(took[few]), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkExport is P13: the memory an export of many records needs, beyond
// that of one of 10,000, and its speed.
func BenchmarkExport(b *testing.B) {
	n := records(b)
	r, err := OpenReadOnly(b.Context(), fill(b, n))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close() })
	for _, format := range []string{"csv", "json", "ndjson"} {
		b.Run(format, func(b *testing.B) {
			var peak uint64
			for b.Loop() {
				var stats runtime.MemStats
				w := &sink{header: http.Header{}, each: 4 << 20, sample: func() {
					runtime.GC()
					runtime.ReadMemStats(&stats)
					peak = max(peak, stats.HeapAlloc)
				}}
				r.Handler().ServeHTTP(w, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/usage/export?export_format="+format, nil))
				if w.status != http.StatusOK {
					b.Fatal(w.status)
				}
				b.SetBytes(w.written)
			}
			b.ReportMetric(float64(peak)/(1<<20), "MiB-live")
			b.ReportMetric(float64(n)/b.Elapsed().Seconds()*float64(b.N), "records/s")
		})
	}
}

// sink is a response that is thrown away; sample is called every each bytes.
type sink struct {
	header              http.Header
	status              int
	written, next, each int64
	sample              func()
}

func (s *sink) Header() http.Header { return s.header }

func (s *sink) WriteHeader(status int) { s.status = status }

func (s *sink) Write(p []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	s.written += int64(len(p))
	if s.written >= s.next {
		s.next = s.written + s.each
		s.sample()
	}
	return len(p), nil
}

var _ io.Writer = (*sink)(nil)

// BenchmarkAuthorizeCached is P6 with the keys of a node and 100,000 revocations
// loaded: what a delegated request adds before the ledger, once its token was
// seen. An operation is a batch of 100; "ns-authorize/op" is the median time of
// one.
func BenchmarkAuthorizeCached(b *testing.B) {
	c := delegating(b)
	c.Store = "memory:"
	n, _ := start(b, c, counter(new(atomic.Int64)))
	d, err := n.openDelegations(b.Context(), signers{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100_000 {
		d.revoked.Add(agentA, "del_"+strconv.Itoa(i))
	}
	now := time.Now()
	token, _ := chainOf(b, now, []string{"*"}, limits{1, -1}, limits{1, -1}, limits{1, -1})
	q := delegation.Query{Caller: agentD, Action: delegation.ScopeTaskExecute, Now: now}
	const batch = 100
	var took []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		for range batch {
			if _, err := d.Authorize(b.Context(), token, q); err != nil {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(begin))
	}
	b.ReportMetric(micros(took)*1000/batch, "ns-authorize/op")
}
