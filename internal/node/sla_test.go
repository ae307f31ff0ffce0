package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/prober"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	slowURN    = "urn:asap:agent:slow"
	stoppedURN = "urn:asap:agent:stopped"
)

// audience hears of breaches in every way there is: as a WebSocket client, at a
// webhook, and in the log. It outlives restarts of the node.
type audience struct {
	t      *testing.T
	hooks  *httptest.Server
	secret []byte
	clock  func() time.Time
	log    syncBuffer

	mu     sync.Mutex // guards what follows
	frames []slawatch.Event
	posts  []slawatch.Event
	taken  map[string]bool // posts by id
	since  int64
	down   atomic.Bool // the webhook's receiver answers 503
}

func newAudience(t *testing.T) *audience {
	a := &audience{t: t, secret: []byte("the secret of the webhook"), since: -1, taken: map[string]bool{}}
	a.hooks = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || a.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var seconds int64
		_, _ = fmt.Sscan(r.Header.Get("webhook-timestamp"), &seconds) // 0 signs nothing
		if r.Header.Get("webhook-signature") != slawatch.Sign(a.secret, r.Header.Get("webhook-id"), time.Unix(seconds, 0), body) {
			t.Errorf("a post with a bad signature: %v", r.Header)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		// A post whose answer was lost comes again under its id, which is how a
		// receiver knows it.
		id := r.Header.Get("webhook-id")
		if a.taken[id] {
			return
		}
		a.taken[id] = true
		a.posts = append(a.posts, decode[struct {
			Data slawatch.Event `json:"data"`
		}](t, body).Data)
	}))
	t.Cleanup(a.hooks.Close)
	return a
}

// config is that of a node whose breaches the audience hears of.
func (a *audience) config(dir string) Config {
	c := testConfig(dir)
	secret := filepath.Join(dir, "webhook.secret")
	if err := os.WriteFile(secret, a.secret, 0o600); err != nil {
		a.t.Fatal(err)
	}
	c.SLA.Windows, c.SLA.ResolveAfter = "1h", 0
	c.SLA.WebhookURL, c.SLA.WebhookSecret = a.hooks.URL, "file:"+secret
	return c
}

// start runs a node and listens to it, from where the audience was before.
func (a *audience) start(c Config, agents ...*agent.Agent) (n *Node, stop func()) {
	a.t.Helper()
	n, err := Open(a.t.Context(), c, Options{Agents: agents, Now: a.clock, Log: &a.log})
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	s, err := client.NewSocket(n.URL(), client.WithSender(callerURN), client.WithHandlers(client.Handlers{
		Notification: func(_ context.Context, method string, params jsontext.Value) {
			if method != "sla.breach" {
				return
			}
			e := decode[slawatch.Event](a.t, params)
			a.mu.Lock()
			defer a.mu.Unlock()
			a.frames, a.since = append(a.frames, e), e.Seq
		}}))
	if err != nil {
		a.t.Fatal(err)
	}
	if err := s.Connect(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	since := a.since
	a.mu.Unlock()
	result, err := s.SubscribeSLA(a.t.Context(), jsontext.Value(fmt.Sprintf(`{"since_seq":%d}`, since)))
	if err != nil || !strings.Contains(string(result), `"subscribed":true`) || !strings.Contains(string(result), `"seq":`) {
		a.t.Fatalf("%s %v", result, err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			if err := s.Close(); err != nil {
				a.t.Error(err)
			}
			cancel()
			if err := <-done; err != nil {
				a.t.Error(err)
			}
			if err := n.Close(); err != nil {
				a.t.Error(err)
			}
		})
	}
	a.t.Cleanup(stop)
	return n, stop
}

// heard checks that every way told the same events of one breach, each once, and
// returns them.
func (a *audience) heard(want ...sla.EventKind) []slawatch.Event {
	a.t.Helper()
	a.until(fmt.Sprintf("%v reach everybody", want), func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.frames) >= len(want) && len(a.posts) >= len(want) && strings.Count(a.log.String(), `level=WARN msg="service level"`) >= len(want)
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, events := range map[string][]slawatch.Event{"WebSocket": a.frames, "webhook": a.posts} {
		kinds := make([]sla.EventKind, len(events))
		for i, e := range events {
			if kinds[i] = e.Kind; e.Breach.ID != events[0].Breach.ID || e.Seq != a.frames[i].Seq {
				a.t.Errorf("%s: %+v", name, e)
			}
		}
		if !slices.Equal(kinds, want) {
			a.t.Fatalf("%s heard %v, want %v: %+v", name, kinds, want, events)
		}
	}
	for _, kind := range want {
		if n := strings.Count(a.log.String(), "event="+string(kind)+" breach="+a.frames[0].Breach.ID); n != 1 {
			a.t.Errorf("%d lines in the log about %s", n, kind)
		}
	}
	return slices.Clone(a.frames)
}

func (a *audience) until(what string, ok func() bool) {
	a.t.Helper()
	deadline := time.After(2 * time.Minute)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-deadline:
			a.t.Fatalf("never: %s", what)
		}
	}
}

// breachOf reads the only breach of an agent.
func breachOf(t *testing.T, n *Node, urn string) slawatch.BreachView {
	t.Helper()
	page := decode[struct {
		Data []slawatch.BreachView `json:"data"`
	}](t, get(t, n, "/agents/"+urn+"/sla/breaches"))
	if len(page.Data) != 1 {
		t.Fatalf("%d breaches, want one: %+v", len(page.Data), page.Data)
	}
	return page.Data[0]
}

// slowAgent takes as long for a task as its input says, in milliseconds.
func slowAgent(t *testing.T) *agent.Agent {
	def, err := asap.ParseSLADefinition([]byte(`{"max_latency_p95_ms":1000}`))
	if err != nil {
		t.Fatal(err)
	}
	a := agent.New(slowURN, "Slow", agent.SLA(*def))
	a.Handle("work", func(ctx context.Context, task *agent.Task) (any, error) {
		var in struct {
			MS int `json:"ms"`
		}
		if err := task.Decode(&in); err != nil {
			return nil, err
		}
		select {
		case <-time.After(time.Duration(in.MS) * time.Millisecond):
			return map[string]int{"took": in.MS}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	return a
}

// A really slow agent: one breach, one alert for each thing that happens to it, in
// every way, across a restart in the middle.
func TestSlowAgentIsHeardOf(t *testing.T) {
	a := newAudience(t)
	c := a.config(t.TempDir())
	n, stop := a.start(c, slowAgent(t))
	work := func(times, ms int) {
		calls := newClient(t, n)
		var parts sync.WaitGroup
		for range 20 {
			parts.Go(func() {
				for range times / 20 {
					if _, err := calls.Task(t.Context(), client.TaskCall{Recipient: slowURN, Skill: "work", Input: jsontext.Value(fmt.Sprintf(`{"ms":%d}`, ms))}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		parts.Wait()
	}
	work(20, 1100)
	opened := a.heard(sla.Firing)[0].Breach
	if opened.AgentID != slowURN || opened.BreachType != sla.Latency || opened.Threshold != "1000ms" || opened.ResolvedAt != nil {
		t.Errorf("opened as %+v", opened)
	}
	if got := breachOf(t, n, slowURN); got.ID != opened.ID || got.Status != "firing" {
		t.Errorf("over HTTP it is %+v", got)
	}

	stop()
	a.down.Store(true)
	n, stop = a.start(c, slowAgent(t))
	defer stop()
	work(600, 0)
	a.until("it ends", func() bool { return breachOf(t, n, slowURN).Status == "resolved" })
	a.down.Store(false) // the webhook's receiver comes back, and has missed nothing
	ended := a.heard(sla.Firing, sla.Resolved)[1].Breach
	got := breachOf(t, n, slowURN)
	if ended.ResolvedAt == nil || got.ID != opened.ID || *got.ResolvedAt != *ended.ResolvedAt || got.StartedAt != opened.StartedAt ||
		int64(got.Duration) != int64(*got.ResolvedAt-got.StartedAt) || got.Duration <= 0 || got.Duration != ended.Duration {
		t.Errorf("ended as %+v, over HTTP %+v", ended, got)
	}
}

// stoppable is an agent's health on one address, which stops and starts.
type stoppable struct {
	t       *testing.T
	address string
	server  *http.Server
	done    chan error
}

func (s *stoppable) start() {
	s.t.Helper()
	at := s.address
	if at == "" {
		at = "127.0.0.1:0"
	}
	l, err := new(net.ListenConfig).Listen(s.t.Context(), "tcp", at)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address, s.done = l.Addr().String(), make(chan error, 1)
	s.server = &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != prober.HealthPath {
			http.NotFound(w, r)
			return
		}
		_, _ = fmt.Fprintf(w, `{"status":"healthy","agent_id":%q}`, stoppedURN)
	})}
	go func() { s.done <- s.server.Serve(l) }()
}

func (s *stoppable) stop() {
	s.t.Helper()
	if s.server == nil {
		return
	}
	if err := s.server.Close(); err != nil {
		s.t.Error(err)
	}
	if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
		s.t.Error(err)
	}
	s.server = nil
}

// A registered agent that is really stopped, under a clock that runs ahead.
func TestStoppedAgentIsHeardOf(t *testing.T) {
	var ahead atomic.Int64
	a := newAudience(t)
	a.clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	other := &stoppable{t: t}
	other.start()
	defer func() { other.stop() }()
	c := a.config(t.TempDir())
	c.SLA.ProbeInterval = Duration(10 * time.Minute) // results hold half an hour
	n, stop := a.start(c, agent.Echo("urn:asap:agent:echo"))

	availability, err := asap.ParsePercentage("99.5%")
	if err != nil {
		t.Fatal(err)
	}
	register(t, n, asap.Manifest{ID: stoppedURN, Name: "Stopped", Version: "1.0.0", Description: "stops", TTLSeconds: 300,
		Capabilities: asap.Capability{ASAPVersion: asap.DefaultASAPVersion}, Endpoints: asap.Endpoint{ASAP: "http://" + other.address + "/asap"},
		SLA: &asap.SLADefinition{Availability: &availability}})
	target := prober.Target{Agent: stoppedURN, URL: "http://" + other.address + prober.HealthPath, Expect: stoppedURN}
	// probe asks now what the prober asks every ten minutes, and lets time pass.
	probe := func(want sla.State, pass time.Duration) {
		t.Helper()
		r := n.prober.Probe(t.Context(), target)
		if r.State != want {
			t.Fatalf("%+v, want %s", r, want)
		}
		n.watch.Probed(r.Agent, c.URN, r.State, r.At)
		a.until("the result is taken", n.watch.Idle)
		ahead.Add(int64(pass))
		n.watch.Wake()
	}
	probe(sla.StateUp, 10*time.Minute)
	probe(sla.StateUp, 10*time.Minute)
	other.stop()
	probe(sla.StateDown, time.Minute)
	opened := a.heard(sla.Firing)[0].Breach
	if opened.BreachType != sla.Availability || opened.Threshold != "99.5%" {
		t.Errorf("opened as %+v", opened)
	}
	stop()
	n, stop = a.start(c, agent.Echo("urn:asap:agent:echo"))
	defer stop()
	probe(sla.StateDown, 9*time.Minute)
	other.start()
	for range 8 {
		probe(sla.StateUp, 10*time.Minute)
	}
	a.until("it ends", func() bool { return breachOf(t, n, stoppedURN).Status == "resolved" })
	events := a.heard(sla.Firing, sla.Escalated, sla.Resolved)
	ended, got := events[2].Breach, breachOf(t, n, stoppedURN)
	outages := decode[struct {
		Data []slawatch.Outage `json:"data"`
	}](t, get(t, n, "/agents/"+strings.ReplaceAll(stoppedURN, ":", "%3A")+"/sla/outages")).Data
	if len(outages) != 1 || outages[0].EndedAt == nil {
		t.Fatalf("outages %+v", outages)
	}
	// Half a percent of twenty minutes up is six seconds down; half a percent of the
	// hour is eighteen, so it ends when that much of the outage is still in the hour.
	late := opened.StartedAt - outages[0].StartedAt
	early := *outages[0].EndedAt + 3_582_000 - *got.ResolvedAt
	if late < 6_000 || late > 6_200 || early < 0 || early > 100 {
		t.Errorf("it began %d ms after the outage and ended %d ms before the outage had left the hour", late, early)
	}
	if got.ID != opened.ID || *ended.ResolvedAt != *got.ResolvedAt || int64(got.Duration) != int64(*got.ResolvedAt-opened.StartedAt) {
		t.Errorf("ended as %+v, over HTTP %+v", ended, got)
	}

	// What was measured is what the registry finds agents by.
	if err := measure(t.Context(), n.watch, n.registry); err != nil {
		t.Fatal(err)
	}
	for least, want := range map[string]bool{"50": true, "99.5": false} {
		found := strings.Contains(string(get(t, n, "/registry/agents?sort=-sla_score&min_availability="+least)), stoppedURN)
		if found != want {
			t.Errorf("min_availability=%s finds it: %v", least, found)
		}
	}
}

// register puts an agent into the registry of a node.
func register(t *testing.T, n *Node, m asap.Manifest) {
	t.Helper()
	signed, err := asap.SignManifest(&m, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.NewRegistration(registry.Caller{Operator: true}, m.ID, signed.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.ledger.Register(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}
