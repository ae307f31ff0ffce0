package slawatch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	agentX   = asap.AgentURN("urn:asap:agent:x")
	consumer = asap.AgentURN("urn:asap:agent:consumer")
)

// stage is a ledger, its store in a file, and a watch over it, under one clock.
type stage struct {
	t      *testing.T
	path   string
	clock  sync.Mutex // guards now
	now    time.Time
	store  *sqlite.Store
	ledger *ledger.Ledger
	watch  *slawatch.Watch
	log    *strings.Builder
	stop   func()
	tasks  int
	policy sla.Policy
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, path: filepath.Join(t.TempDir(), "asap.db"), now: time.Date(2026, 2, 18, 12, 0, 0, 0, time.UTC), policy: sla.DefaultPolicy(), log: &strings.Builder{}}
	s.policy.Windows = []sla.Window{sla.LastHour}
	return s
}

func (s *stage) time() time.Time { s.clock.Lock(); defer s.clock.Unlock(); return s.now }
func (s *stage) pass(d time.Duration) {
	s.clock.Lock()
	s.now = s.now.Add(d)
	s.clock.Unlock()
	s.watch.Wake()
}

// start opens everything and lets it run.
func (s *stage) start() {
	s.t.Helper()
	var err error
	if s.store, err = sqlite.Open(s.t.Context(), s.path, sqlite.Options{Now: s.time}); err != nil {
		s.t.Fatal(err)
	}
	if s.watch, err = slawatch.Open(s.t.Context(), s.store, s.store, slawatch.Options{Policy: s.policy, Now: s.time}); err != nil {
		s.t.Fatal(err)
	}
	s.ledger, err = ledger.Open(s.t.Context(), s.store, ledger.Options{Origin: "urn:asap:agent:node", Operator: "urn:asap:agent:node", Now: s.time, Committed: func(b ledger.Batch) {
		if n := len(b.Records); n > 0 {
			s.watch.Follow(ledger.News{Records: b.Records[n-1].Sequence})
		}
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ledgerCtx, stopLedger := context.WithCancel(context.Background())
	ledgerDone, watchDone := make(chan error, 1), make(chan error, 1)
	go func() { ledgerDone <- s.ledger.Run(ledgerCtx) }()
	go func() { watchDone <- s.watch.Run(ctx, s.ledger) }()
	s.stop = func() {
		cancel()
		if err := <-watchDone; err != nil {
			s.t.Error(err)
		}
		stopLedger()
		if err := errors.Join(<-ledgerDone, s.store.Close()); err != nil {
			s.t.Error(err)
		}
	}
}

// task settles one task.
func (s *stage) task(outcome metering.Outcome, failure string, durationMS int64) {
	s.t.Helper()
	s.tasks++
	id := asap.TaskID(fmt.Sprintf("task-%d", s.tasks))
	if _, err := s.ledger.Admit(s.t.Context(), ledger.Admission{TaskID: id, Consumer: consumer, EnvelopeID: asap.EnvelopeID("e-" + string(id)), Agent: agentX, Skill: "echo"}); err != nil {
		s.t.Fatal(err)
	}
	_, err := s.ledger.Settle(s.t.Context(), ledger.Settlement{TaskID: id, Failure: failure,
		Record: metering.Record{Outcome: outcome, DurationMS: &durationMS, Timestamp: s.time(), Evidence: metering.Observed}})
	if err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a condition.
func (s *stage) until(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(10 * time.Second)
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		s.watch.Wake()
		select {
		case <-look.C:
		case <-deadline:
			s.t.Fatalf("never: %s", what)
		}
	}
}

func (s *stage) status(w sla.Window) *sla.Status {
	s.t.Helper()
	status, err := s.watch.Status(s.t.Context(), string(agentX), w)
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

func (s *stage) breaches() []slawatch.BreachView {
	s.t.Helper()
	list, _, err := s.watch.Breaches(s.t.Context(), slawatch.BreachFilter{})
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

func (s *stage) entries(kind string) []audit.Entry {
	s.t.Helper()
	list, _, err := s.store.ListAudit(s.t.Context(), audit.Filter{Type: kind}, 0, 100)
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

func promise(t testing.TB, text string) *asap.SLADefinition {
	t.Helper()
	def, err := asap.ParseSLADefinition([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return def
}

const promised = `{"availability":"99.5%","max_latency_p95_ms":500,"max_error_rate":"1%","support_hours":"24/7"}`

// known waits until the engine knows the agent.
func (s *stage) known() {
	s.t.Helper()
	s.until("the agent is known", func() bool {
		status, err := s.watch.Status(s.t.Context(), string(agentX), sla.LastHour)
		return err == nil && len(status.Objectives) > 0
	})
}

func TestTasksOfTheLedgerAreJudged(t *testing.T) {
	s := newStage(t)
	s.start()
	defer func() { s.stop() }()
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, promised)})
	s.known()
	for range 30 {
		s.task(metering.Completed, "", 100)
	}
	s.task(metering.Failed, "payload_invalid", 1)
	s.task(metering.Cancelled, "", 100)
	s.until("all are counted", func() bool { return s.status(sla.LastHour).Metrics.TasksCompleted == 30 })
	s.until("the others too", func() bool {
		st := s.status(sla.LastDay)
		return st.TasksExcluded == 1 && st.TasksCancelled == 1 && st.Metrics.TasksFailed == 0 && *st.Metrics.LatencyP95MS == 100
	})
	if list := s.breaches(); len(list) != 0 {
		t.Errorf("breaches %v of kept promises", list)
	}
}

// One breach opens, is stored with its audit entry, is told to every listener
// once, survives a restart in the middle, and ends.
func TestBreachIsOneAcrossARestart(t *testing.T) {
	s := newStage(t)
	s.policy.ResolveAfter = 60_000
	s.start()
	defer func() { s.stop() }()
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, promised)})
	s.known()
	var heard frames
	end, err := s.watch.Subscribe(t.Context(), slawatch.Filter{}, nil, heard.push)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		s.task(metering.Completed, "", 700)
	}
	s.until("it opens", func() bool { return heard.count() == 1 })
	end()
	first := s.breaches()
	if len(first) != 1 || first[0].BreachType != sla.Latency || first[0].Status != "firing" || first[0].Threshold != "500ms" || first[0].Severity != sla.Warning {
		t.Fatalf("breaches %+v", first)
	}
	if got := s.entries(audit.SLABreach); len(got) != 1 || got[0].Actor != string(agentX) || got[0].Subject != first[0].ID {
		t.Fatalf("entries %v", got)
	}

	before, _ := json.Marshal(s.status(sla.LastHour))
	s.stop()
	s.start()
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, promised)})
	after, _ := json.Marshal(s.status(sla.LastHour))
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("a restart changes the figures (-before +after):\n%s", diff)
	}

	since := int64(-1)
	var again frames
	if end, err = s.watch.Subscribe(t.Context(), slawatch.Filter{SinceSeq: &since}, nil, again.push); err != nil {
		t.Fatal(err)
	}
	defer end()
	s.until("what happened before the restart is told", func() bool { return again.count() == 1 })
	s.pass(10 * time.Minute)
	for range 400 {
		s.task(metering.Completed, "", 10)
	}
	s.until("the promise is kept again", func() bool { l := s.breaches(); return len(l) == 1 && l[0].Status == "resolving" })
	s.pass(2 * time.Minute)
	s.until("it is told to be over", func() bool { return again.count() == 2 })
	list := s.breaches()
	if len(list) != 1 || list[0].ID != first[0].ID || list[0].Status != "resolved" || *list[0].CloseReason != sla.CloseRecovered || list[0].Duration != 600_000 {
		t.Errorf("at the end: %+v", list)
	}
	if got := s.entries(audit.SLABreach); len(got) != 2 {
		t.Errorf("%d entries, want one each for opening and end", len(got))
	}
	var frame struct {
		Method string `json:"method"`
		Params struct {
			Seq    int64  `json:"seq"`
			Status string `json:"status"`
			Breach struct {
				ID         string  `json:"id"`
				ResolvedAt *string `json:"resolved_at"`
			} `json:"breach"`
		} `json:"params"`
	}
	if err := json.Unmarshal([]byte(again.all()[1]), &frame); err != nil {
		t.Fatal(err)
	}
	if frame.Method != "sla.breach" || frame.Params.Breach.ID != first[0].ID || frame.Params.Breach.ResolvedAt == nil || frame.Params.Status != "resolved" {
		t.Errorf("frame %s", again.all()[1])
	}
}

type frames struct {
	mu   sync.Mutex
	list []string
}

func (f *frames) push(_ context.Context, b []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, string(b))
	return true
}
func (f *frames) count() int    { f.mu.Lock(); defer f.mu.Unlock(); return len(f.list) }
func (f *frames) all() []string { f.mu.Lock(); defer f.mu.Unlock(); return f.list }

// A killed node comes to the same figures, and to the same breach, again.
func TestCrashInTheMiddleOfAMinute(t *testing.T) {
	s := newStage(t)
	s.start()
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, promised)})
	s.known()
	for i := range 25 {
		s.task(metering.Completed, "", int64(50+30*i))
		s.pass(7 * time.Second)
		if i%5 == 0 {
			s.watch.Probed(string(agentX), "p", sla.StateUp, s.time())
		}
	}
	s.until("all are counted", func() bool { return s.status(sla.LastHour).Metrics.TasksCompleted == 25 && len(s.breaches()) == 1 })
	want, _ := json.Marshal(s.status(sla.LastHour))
	breach := s.breaches()[0].ID

	// What is on disk now is what a killed process leaves.
	killed := filepath.Join(t.TempDir(), "asap.db")
	copyStore(t, s.path, killed)
	s.stop()
	s.path = killed
	s.start()
	defer func() { s.stop() }()
	got, _ := json.Marshal(s.status(sla.LastHour))
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("a crash changes the figures (-before +after):\n%s", diff)
	}
	s.pass(time.Second)
	s.task(metering.Completed, "", 10)
	s.until("it goes on", func() bool { return s.status(sla.LastHour).Metrics.TasksCompleted == 26 })
	if list := s.breaches(); len(list) != 1 || list[0].ID != breach {
		t.Errorf("breaches after the crash: %v", list)
	}
	if n := len(s.entries(audit.SLABreach)); n != 1 {
		t.Errorf("%d entries of one breach", n)
	}
}

func TestOutageOpensAndEndsABreach(t *testing.T) {
	s := newStage(t)
	s.start()
	defer func() { s.stop() }()
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, `{"availability":"99.5%"}`)})
	s.known()
	probe := func(state sla.State, times int) {
		for range times {
			at := s.time()
			s.watch.Probed(string(agentX), "p", state, at)
			s.until("the probe is taken", func() bool { return s.watch.Idle() })
			s.pass(30 * time.Second)
		}
	}
	probe(sla.StateUp, 60)
	probe(sla.StateDown, 4)
	probe(sla.StateUp, 1)
	s.until("the outage is a breach", func() bool { return len(s.breaches()) == 1 })
	outages, err := s.watch.Outages(t.Context(), string(agentX), 0, 0)
	if err != nil || len(outages) != 1 || outages[0].Duration != 120_000 || *outages[0].EndedBy != "up" {
		t.Errorf("outages %+v, %v", outages, err)
	}
	history, err := s.watch.History(t.Context(), string(agentX), slawatch.Hourly, 0, 0)
	if err != nil || len(history) != 1 || history[0].DownSeconds != 120_000 || history[0].LatencyP95MS != nil {
		t.Errorf("history %+v, %v", history, err)
	}
	s.watch.RemoveAgent(string(agentX))
	s.until("it ends with the agent", func() bool {
		l := s.breaches()
		return l[0].CloseReason != nil && *l[0].CloseReason == sla.CloseAgentRemoved
	})
}

// Hooks that panic, fail or hang harm no other.
func TestHooksAreContained(t *testing.T) {
	s := newStage(t)
	s.start()
	defer func() { s.stop() }()
	var text lockedText
	s.watch.AddHook(slawatch.LogHook{Log: slog.New(slog.NewTextHandler(&text, nil))})
	panics := s.watch.AddHook(hook(func(context.Context, slawatch.Event) error { panic("no") }))
	hang := make(chan struct{})
	defer close(hang)
	s.watch.AddHook(hook(func(context.Context, slawatch.Event) error { <-hang; return nil }))
	fails := s.watch.AddHook(hook(func(context.Context, slawatch.Event) error { return errors.New("no") }))
	s.watch.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(t, promised)})
	s.known()
	for range 20 {
		s.task(metering.Failed, "", 1)
	}
	s.until("the others are told", func() bool {
		return strings.Count(text.String(), "level=WARN") == 1 && panics().Failed == 1 && fails().Failed == 1
	})
	if !strings.Contains(text.String(), s.breaches()[0].ID) {
		t.Errorf("the log does not name the breach: %s", text.String())
	}
}

type hook func(context.Context, slawatch.Event) error

func (h hook) OnSLAEvent(ctx context.Context, e slawatch.Event) error { return h(ctx, e) }

type lockedText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedText) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }
