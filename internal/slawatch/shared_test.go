package slawatch_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// peer is the watch of one of the nodes that share a store.
type peer struct {
	*slawatch.Watch
	t      *testing.T
	stage  *stage
	leads  atomic.Bool
	cannot atomic.Bool // it cannot have anything recorded
	mu     sync.Mutex
	heard  []string // what a subscriber heard
}

// RecordBreaches is that of the ledger, unless the node is about to die.
func (p *peer) RecordBreaches(ctx context.Context, events []sla.Event) ([]ledger.BreachChange, error) {
	if p.cannot.Load() {
		return nil, errors.New("the node is about to die")
	}
	return p.stage.ledger.RecordBreaches(ctx, events)
}

// startLedger opens the store and lets its ledger run until the test ends.
func (s *stage) startLedger() {
	s.t.Helper()
	var err error
	if s.store, err = sqlite.Open(s.t.Context(), s.path, sqlite.Options{Now: s.time}); err != nil {
		s.t.Fatal(err)
	}
	if s.ledger, err = ledger.Open(s.t.Context(), s.store, ledger.Options{Origin: "urn:asap:agent:node", Operator: "urn:asap:agent:node", Now: s.time}); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.ledger.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.store.Close()); err != nil {
			s.t.Error(err)
		}
	})
}

func (s *stage) peer(leads bool) *peer {
	s.t.Helper()
	p := &peer{t: s.t, stage: s}
	p.leads.Store(leads)
	var err error
	p.Watch, err = slawatch.Open(s.t.Context(), s.store, s.store, slawatch.Options{Policy: s.policy, Now: s.time,
		Shared: func() bool { return true }, Leads: p.leads.Load,
		Led: func() {
			p.SetAgent(slawatch.Agent{ID: string(agentX), SLA: promise(s.t, promised)})
		}})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// step has each node do what there is to do, in turn, and tells it what the log has.
func (s *stage) step(peers ...*peer) {
	s.t.Helper()
	for _, p := range peers {
		p.Follow(ledger.News{Breaches: true})
		if err := p.Step(s.t.Context(), p); err != nil && !p.cannot.Load() {
			s.t.Error(err)
		}
	}
}

// view is all that a node tells of the agent.
func (p *peer) view() string {
	p.t.Helper()
	status, err := p.Status(p.t.Context(), string(agentX), sla.LastHour)
	if err != nil {
		p.t.Fatal(err)
	}
	history, err := p.History(p.t.Context(), string(agentX), slawatch.Hourly, 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	outages, err := p.Outages(p.t.Context(), string(agentX), 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	breaches, _, err := p.Breaches(p.t.Context(), slawatch.BreachFilter{})
	if err != nil {
		p.t.Fatal(err)
	}
	planned, err := p.Maintenance(p.t.Context(), string(agentX))
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := json.Marshal([]any{status, history, outages, breaches, planned}, json.Deterministic(true))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

func (s *stage) same(what string, peers ...*peer) {
	s.t.Helper()
	want := peers[0].view()
	for _, p := range peers[1:] {
		if diff := cmp.Diff(want, p.view()); diff != "" {
			s.t.Errorf("%s: two nodes answer otherwise:\n%s", what, diff)
		}
	}
}

// changes is what the log has of breaches.
func (s *stage) changes() (list []string) {
	s.t.Helper()
	changes, err := s.store.BreachChanges(s.t.Context(), -1, 100)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range changes {
		list = append(list, string(changes[i].Kind)+" "+changes[i].Breach.ID)
	}
	return list
}

// Nodes that share a store answer alike, whoever leads: after tasks, probes, time,
// maintenance that was asked for elsewhere, checkpoints, and when the one that leads
// dies at the worst moment. Each breach is recorded once.
func TestNodesShareAJournal(t *testing.T) {
	s := newStage(t)
	s.startLedger()
	one, two := s.peer(true), s.peer(false)
	s.watch = one.Watch
	both := []*peer{one, two}
	s.step(both...)
	s.step(both...)
	if got, err := two.Agents(t.Context()); err != nil || len(got) != 1 {
		t.Fatalf("the other node knows %v, %v", got, err)
	}
	s.same("at the beginning", both...)

	probe := func(p *peer, state sla.State) { p.Probed(string(agentX), "node", state, s.time()) }
	for range 30 {
		s.pass(time.Second)
		probe(one, sla.StateUp)
		probe(two, sla.StateDown) // it does not lead: what it sees does not count
		s.task(metering.Failed, "task_failed", 5)
		s.step(both...)
	}
	s.same("after tasks", both...)
	opened := s.changes()
	if len(opened) == 0 {
		t.Fatal("no breach")
	}
	if err := one.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.pass(2 * time.Second)
	s.step(both...)
	s.same("after a checkpoint", both...)

	// What the other node is asked for, it journals itself.
	planned := make(chan error, 1)
	go func() {
		now := sla.InstantOf(s.time())
		_, err := two.Plan(context.WithoutCancel(t.Context()), string(agentX), sla.Exclusion{Start: now + 48*3600_000, End: now + 49*3600_000},
			func(*sla.Exclusion) error { return nil })
		planned <- err
	}()
	for done := false; !done; {
		select {
		case err := <-planned:
			if done = true; err != nil {
				t.Fatal(err)
			}
		default:
			s.pass(10 * time.Millisecond)
			probe(one, sla.StateUp) // at the same time as the one that leads
			s.step(both...)
		}
	}
	s.step(both...)
	s.same("after maintenance was planned", both...)
	if list, err := one.Maintenance(t.Context(), string(agentX)); err != nil || len(list) != 1 {
		t.Errorf("the node that leads knows of %v, %v", list, err)
	}

	// The one that leads journals what ends the breaches and opens another, and dies
	// before that is recorded.
	one.cannot.Store(true)
	for range 20 {
		s.pass(30 * time.Second)
		probe(one, sla.StateDown)
		s.step(both...)
	}
	if got := s.changes(); len(got) != len(opened) {
		t.Fatalf("recorded %v", got)
	}
	two.leads.Store(true)
	s.step(two)
	after := s.changes()
	if len(after) == len(opened) {
		t.Error("what was due when the node died was lost")
	}
	// The one before believes to lead still, and comes back.
	one.cannot.Store(false)
	s.step(one, two, one, two)
	if diff := cmp.Diff(after, s.changes()); diff != "" {
		t.Errorf("recorded twice, or lost:\n%s", diff)
	}
	seen := map[string]bool{}
	for _, c := range after {
		if seen[c] {
			t.Errorf("recorded twice: %s", c)
		}
		seen[c] = true
	}
	one.leads.Store(false)
	for range 10 {
		s.pass(time.Minute)
		probe(two, sla.StateUp)
		s.step(two, one)
	}
	s.same("after the lead has changed", both...)
	if err := two.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	three := s.peer(false) // a node that comes later
	s.pass(2 * time.Second)
	s.step(two, one, three)
	s.same("in the end", one, two, three)
}

// Subscribers on any node hear all changes in the order of the log.
func TestSubscribersOnAnyNode(t *testing.T) {
	s := newStage(t)
	s.startLedger()
	one, two := s.peer(true), s.peer(false)
	s.watch = one.Watch
	ctx, cancel := context.WithCancel(t.Context())
	for _, p := range []*peer{one, two} {
		end, err := p.Subscribe(ctx, slawatch.Filter{}, nil, func(_ context.Context, frame []byte) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.heard = append(p.heard, string(frame))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		defer end()
	}
	defer cancel()
	s.step(one, two)
	s.step(one, two)
	for n := range 60 {
		s.pass(30 * time.Second)
		state := sla.StateUp
		if n/10%2 == 1 {
			state = sla.StateDown
		}
		one.Probed(string(agentX), "node", state, s.time())
		if n%3 == 0 {
			s.task(metering.Failed, "task_failed", 5)
		}
		s.step(one, two)
	}
	want := s.changes()
	if len(want) < 2 {
		t.Fatalf("only %v", want)
	}
	for _, p := range []*peer{one, two} {
		s.until("all is heard", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.heard) >= len(want)
		})
	}
	if diff := cmp.Diff(one.heard, two.heard); diff != "" || len(one.heard) != len(want) {
		t.Errorf("%d and %d frames of %d changes:\n%s", len(one.heard), len(two.heard), len(want), diff)
	}
}
