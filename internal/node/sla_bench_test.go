package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	crowdAgents     = 10_000
	crowdUnfiltered = 10
	crowdFiltered   = 1_000 // each listens to crowdEach agents
	crowdEach       = crowdAgents / crowdFiltered
)

// crowd is a node with many agents, and many who listen to its WebSocket.
type crowd struct {
	b       *testing.B
	node    *Node
	sockets []*client.Socket
	stop    func()
	records atomic.Int64
	lagged  atomic.Int64
	missed  atomic.Int64 // events that came twice or not in order
	watch   [crowdUnfiltered + crowdFiltered]struct {
		mu   sync.Mutex // guards heard
		last int64
		seen []heardAt
	}
}

// heardAt is one frame as it was received.
type heardAt struct {
	agent int
	at    time.Time
}

func crowdAgent(i int) string { return fmt.Sprintf("urn:asap:agent:crowd-%05d", i) }

func newCrowd(b *testing.B) *crowd {
	c := testConfig(b.TempDir())
	c.SLA.Windows, c.SLA.MinTasks = "1h", 1
	n, stop := start(b, c, counter(new(atomic.Int64)))
	w := &crowd{b: b, node: n}
	w.stop = func() {
		for _, s := range w.sockets {
			if err := s.Close(); err != nil {
				b.Error(err)
			}
		}
		stop()
	}
	def, err := asap.ParseSLADefinition([]byte(`{"max_latency_p95_ms":1000,"max_error_rate":"1%"}`))
	if err != nil {
		b.Fatal(err)
	}
	for i := range crowdAgents {
		n.watch.SetAgent(slawatch.Agent{ID: crowdAgent(i), SLA: def})
	}
	for i := range w.watch {
		w.watch[i].last = -1
		w.sockets = append(w.sockets, w.listen(i))
	}
	w.until("the watch knows all agents", n.watch.Idle)
	return w
}

// params are what listener i subscribes with.
func (w *crowd) params(i int, since int64) jsontext.Value {
	var agents []string
	if i >= crowdUnfiltered {
		for k := range crowdEach {
			agents = append(agents, strconv.Quote(crowdAgent((i-crowdUnfiltered)*crowdEach+k)))
		}
	}
	return jsontext.Value(fmt.Sprintf(`{"agents":[%s],"since_seq":%d}`, strings.Join(agents, ","), since))
}

func (w *crowd) listen(i int) *client.Socket {
	mine := &w.watch[i]
	var s *client.Socket
	s, err := client.NewSocket(w.node.URL(), client.WithSender(callerURN), client.WithPushQueue(2*crowdAgents), client.WithHandlers(client.Handlers{
		Notification: func(_ context.Context, method string, params jsontext.Value) {
			now := time.Now()
			var e struct {
				Seq    int64 `json:"seq"`
				Breach struct {
					Agent string `json:"agent_id"`
				} `json:"breach"`
				Since int64 `json:"since_seq"`
			}
			if err := json.Unmarshal(params, &e); err != nil {
				w.b.Error(err)
				return
			}
			if method == "sla.lagged" {
				w.lagged.Add(1)
				go func() { // a handler does not wait for answers
					if _, err := s.SubscribeSLA(context.Background(), w.params(i, e.Since)); err != nil {
						w.b.Error(err)
					}
				}()
				return
			}
			agent, err := strconv.Atoi(e.Breach.Agent[len(e.Breach.Agent)-5:])
			if err != nil {
				w.b.Error(err)
			}
			mine.mu.Lock()
			defer mine.mu.Unlock()
			if e.Seq <= mine.last {
				w.missed.Add(1)
			}
			mine.last = e.Seq
			mine.seen = append(mine.seen, heardAt{agent, now})
		}}))
	if err != nil {
		w.b.Fatal(err)
	}
	if err := s.Connect(w.b.Context()); err != nil {
		w.b.Fatal(err)
	}
	if _, err := s.SubscribeSLA(w.b.Context(), w.params(i, -1)); err != nil {
		w.b.Fatal(err)
	}
	return s
}

func (w *crowd) until(what string, ok func() bool) {
	w.b.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	give := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-look.C:
		case <-give:
			heard := make([]int, crowdUnfiltered+3)
			for i := range heard {
				w.watch[i].mu.Lock()
				heard[i] = len(w.watch[i].seen)
				w.watch[i].mu.Unlock()
			}
			w.b.Fatalf("never: %s; heard of %v events, %d dropped, position %d", what, heard, w.lagged.Load(), w.node.watch.Position())
		}
	}
}

// all tells whether each listener has heard of as many events as there were for it.
func (w *crowd) all(events int) bool {
	for i := range w.watch {
		want := events
		if i >= crowdUnfiltered {
			want = events / crowdFiltered
		}
		w.watch[i].mu.Lock()
		n := len(w.watch[i].seen)
		w.watch[i].mu.Unlock()
		if n < want {
			return false
		}
	}
	return true
}

// record is the record of the end of a task.
func (w *crowd) record(agent int, outcome metering.Outcome, durationMS *int64) ledger.Report {
	k := w.records.Add(1)
	return ledger.Report{Record: metering.Record{
		ID: fmt.Sprintf("r%09d", k), TaskID: asap.TaskID(fmt.Sprintf("t%09d", k)), Agent: asap.AgentURN(crowdAgent(agent)),
		Consumer: callerURN, Skill: "work", Outcome: outcome, Evidence: metering.SelfReported, DurationMS: durationMS,
		Timestamp: time.Now().UTC().Truncate(time.Microsecond),
	}}
}

// outcomesPerSecond is the offered load: ASAP_BENCH_OUTCOMES, or 20,000 a second.
func outcomesPerSecond(b *testing.B) int {
	text := os.Getenv("ASAP_BENCH_OUTCOMES")
	if text == "" {
		return 20_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1000 {
		b.Fatalf("ASAP_BENCH_OUTCOMES=%q is not a number of at least 1000", text)
	}
	return n
}

// BenchmarkBreachFrames is P10: from the commit of an outcome that opens a breach
// to the frame in the hands of a client, while outcomes of 10,000 agents are
// offered at a fixed rate, whatever becomes of them, and 10 clients listen to all
// agents and 1,000 to ten each. Three rounds; the metric is the median of their
// p99. Then 10,000 breaches are opened within a second: every client must have
// every event it wants once, whether it was dropped and has resumed or not.
func BenchmarkBreachFrames(b *testing.B) {
	const (
		rounds = 3
		round  = 4 * time.Second
		every  = 20 * time.Millisecond
		ticks  = int(round / every)
		opens  = 2 // breaches at each tick
	)
	rate := outcomesPerSecond(b)
	type trigger struct{ offered, committed time.Time }
	for b.Loop() {
		w := newCrowd(b)
		triggers := make([]trigger, crowdAgents)
		var p50s, p99s, whole, carried []float64
		events := 0
		for range rounds {
			var parts sync.WaitGroup
			var committed atomic.Int64
			began := time.Now()
			clock := time.NewTicker(every)
			first, sent := events, 0
			// Agents are spread so that each filtered client has its share.
			nth := func(k int) int { return k%crowdFiltered*crowdEach + k/crowdFiltered }
			for range ticks {
				<-clock.C
				due := min(int(float64(rate)*time.Since(began).Seconds())-sent, ledger.MaxGroup)
				batch := make([]ledger.Report, 0, due+opens)
				from := events
				for range opens {
					batch = append(batch, w.record(nth(events), metering.Failed, nil))
					events++
				}
				for len(batch) < due {
					batch = append(batch, w.record(int(w.records.Load())%crowdAgents, metering.Completed, nil))
				}
				to := events
				sent += len(batch)
				offered := time.Now()
				parts.Go(func() {
					if _, err := w.node.ledger.Record(b.Context(), batch, ledger.Atomic); err != nil {
						b.Error(err)
						return
					}
					now := time.Now()
					committed.Add(int64(len(batch)))
					for k := from; k < to; k++ {
						triggers[nth(k)] = trigger{offered, now}
					}
				})
			}
			clock.Stop()
			parts.Wait()
			b.Logf("%d of %d outcomes committed in %s", committed.Load(), sent, time.Since(began))
			carried = append(carried, float64(committed.Load())/time.Since(began).Seconds())
			w.until("everybody hears of everything", func() bool { return w.all(events) })
			var fromCommit, fromOffer []time.Duration
			for i := range w.watch {
				w.watch[i].mu.Lock()
				for _, h := range w.watch[i].seen {
					t := triggers[h.agent]
					if k := h.agent%crowdEach*crowdFiltered + h.agent/crowdEach; k >= first {
						fromCommit = append(fromCommit, max(h.at.Sub(t.committed), 0))
						fromOffer = append(fromOffer, h.at.Sub(t.offered))
					}
				}
				w.watch[i].mu.Unlock()
			}
			p50s = append(p50s, at(fromCommit, 0.50))
			p99s = append(p99s, at(fromCommit, 0.99))
			whole = append(whole, at(fromOffer, 0.99))
		}
		// The storm: the first slow answer of every agent.
		const slices = 10
		began := time.Now()
		clock := time.NewTicker(time.Second / slices)
		var parts sync.WaitGroup
		slow := int64(5000)
		for k := range slices {
			var batch []ledger.Report
			for i := range crowdAgents / slices {
				batch = append(batch, w.record(i*slices+k, metering.Completed, &slow))
			}
			parts.Go(func() {
				if _, err := w.node.ledger.Record(b.Context(), batch, ledger.Atomic); err != nil {
					b.Error(err)
				}
			})
			<-clock.C
		}
		clock.Stop()
		parts.Wait()
		events += crowdAgents
		w.until("everybody hears of the storm", func() bool { return w.all(events) })
		if n := w.missed.Load(); n > 0 {
			b.Errorf("%d events came twice or out of order", n)
		}
		b.ReportMetric(time.Since(began).Seconds()*1000, "ms/storm")
		b.ReportMetric(median(p50s), "ms/p50")
		b.ReportMetric(median(p99s), "ms/p99")
		b.ReportMetric(median(whole), "ms/p99-from-offer")
		b.ReportMetric(median(carried), "outcomes/s")
		b.ReportMetric(float64(w.lagged.Load()), "dropped-and-resumed")
		w.stop()
	}
	b.ReportMetric(0, "ns/op")
}

// at is a quantile in milliseconds.
func at(d []time.Duration, q float64) float64 {
	slices.Sort(d)
	return float64(d[int(q*float64(len(d)-1))].Microseconds()) / 1000
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
