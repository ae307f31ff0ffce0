package slawatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
)

const (
	// framesQueued is how many frames may wait for a subscriber: one that is further
	// behind is dropped.
	framesQueued = 4096
	// Patience is how long a subscriber may have no room for a frame.
	Patience = 5 * time.Second
	// replayPage is how many changes are read from the log at once.
	replayPage = 500
)

// feed hands recorded changes to those who listen, in order. Nobody is waited for.
type feed struct {
	log    Log
	ctx    context.Context // ends subscriptions and hooks
	cancel context.CancelFunc

	mu sync.Mutex // guards what follows
	// last is the position of the newest change.
	last int64
	// Those who listen to what is new: to all agents, or to some.
	all     map[*subscriber]struct{}
	byAgent map[string]map[*subscriber]struct{}
	hooked  func() bool                // hooks are told: by one node only
	wakes   map[chan struct{}]struct{} // of those who read the log: one token, there is something new
	hooks   []*hookQueue
	running bool
	parts   sync.WaitGroup
}

func newFeed(log Log) *feed {
	ctx, cancel := context.WithCancel(context.Background())
	return &feed{hooked: func() bool { return true }, log: log, ctx: ctx, cancel: cancel, last: -1, all: map[*subscriber]struct{}{}, byAgent: map[string]map[*subscriber]struct{}{}, wakes: map[chan struct{}]struct{}{}}
}

// load finds where the log ends.
func (f *feed) load(ctx context.Context) (err error) {
	f.last, err = f.log.LastBreachChange(ctx)
	return err
}

// told is an event on its way to all who want it; its frame is made once.
type told struct {
	event Event
	once  sync.Once
	frame []byte
	err   error
}

func (t *told) bytes() ([]byte, error) {
	t.once.Do(func() {
		t.frame, t.err = json.Marshal(&notification{Version: "2.0", Method: "sla.breach", Params: &t.event})
	})
	return t.frame, t.err
}

// publish tells changes that have become durable.
func (f *feed) publish(changes []ledger.BreachChange) {
	if len(changes) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range changes {
		f.last = changes[i].Seq
		f.tell(&told{event: eventOf(&changes[i])})
	}
	for wake := range f.wakes {
		signal(wake)
	}
}

// notify tells notices. They have the position of the log at that time, are not in
// it, and are not told to who was not there.
func (f *feed) notify(notices []sla.Event) {
	if len(notices) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range notices {
		f.tell(&told{event: eventOf(&ledger.BreachChange{Seq: f.last, At: notices[i].At, Kind: notices[i].Kind, Breach: ledger.Breach{Breach: notices[i].Breach}})})
	}
}

// tell hands an event to those who listen. The caller holds mu.
func (f *feed) tell(t *told) {
	for s := range f.all {
		s.offer(t)
	}
	for s := range f.byAgent[t.event.Breach.AgentID] {
		s.offer(t)
	}
	if f.hooked() {
		for _, h := range f.hooks {
			h.offer(t.event)
		}
	}
}

// signal leaves a token.
func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// start lets the hooks run.
func (f *feed) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = true
	for _, h := range f.hooks {
		f.parts.Go(func() { h.run(f.ctx.Done()) })
	}
}

// close ends all subscriptions and hooks, and waits for them.
func (f *feed) close() {
	f.mu.Lock()
	f.cancel()
	f.mu.Unlock()
	f.parts.Wait()
}

// Filter is what a subscriber wants to hear of. Zero values are everything.
type Filter struct {
	Agents      []string        `json:"agents"`
	Objectives  []sla.Objective `json:"objectives"`
	MinSeverity sla.Severity    `json:"min_severity"`
	Windows     []string        `json:"windows"`
	// SinceSeq is the position after which to begin; nil begins with what is new.
	SinceSeq *int64 `json:"since_seq"`
}

// ErrFilter is wrapped by the errors about filters.
var ErrFilter = errors.New("filter refused")

// ParseFilter reads the params of sla.subscribe. Members that are not known are
// ignored, as v1.3.0 ignores all.
func ParseFilter(params jsontext.Value) (Filter, error) {
	var f Filter
	if params.Kind() != '{' {
		return f, nil // v1.3.0 clients send anything or nothing
	}
	if err := json.Unmarshal(params, &f); err != nil {
		return f, fmt.Errorf("%w: params must be {agents, objectives, min_severity, windows, since_seq}", ErrFilter)
	}
	for _, o := range f.Objectives {
		if o != sla.Availability && o != sla.Latency && o != sla.ErrorRate {
			return f, fmt.Errorf("%w: objectives: must be among availability, latency, error_rate", ErrFilter)
		}
	}
	for _, w := range f.Windows {
		if _, err := sla.ParseWindow(w); err != nil {
			return f, fmt.Errorf("%w: windows: must be among 1h, 24h, 7d, 30d", ErrFilter)
		}
	}
	if f.MinSeverity != "" && f.MinSeverity != sla.Warning && f.MinSeverity != sla.Critical {
		return f, fmt.Errorf("%w: min_severity: must be warning or critical", ErrFilter)
	}
	if f.SinceSeq != nil && *f.SinceSeq < -1 {
		return f, fmt.Errorf("%w: since_seq: must not be negative", ErrFilter)
	}
	return f, nil
}

// wants tells whether an event passes. A breach that was critical once passes a
// filter for critical ones to its end, so that it is heard of.
func (f *Filter) wants(e *Event) bool {
	b := &e.Breach
	return (len(f.Objectives) == 0 || slices.Contains(f.Objectives, b.Objective)) &&
		(len(f.Windows) == 0 || slices.Contains(f.Windows, b.Window)) &&
		(f.MinSeverity != sla.Critical || b.SeverityMax == sla.Critical)
}

// ErrEnded is returned when the watch is over.
var ErrEnded = errors.New("the node is stopping")

// Position is that of the newest change; -1 if there is none.
func (w *Watch) Position() int64 {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	return w.feed.last
}

// Push hands a frame to a subscriber. It waits for room, but no longer than until
// ctx ends, and then returns false.
type Push func(ctx context.Context, frame []byte) bool

// Subscribe hands frames, each one a JSON-RPC notification, to push, until ctx or
// the watch ends or end is called, which waits for it. allowed says of which
// agents the subscriber may hear; nil is all. A subscriber that has no room for
// too long, or has fallen too far behind, gets sla.lagged with the position from
// which to resume, and nothing more.
func (w *Watch) Subscribe(ctx context.Context, f Filter, allowed func(agentID string) bool, push Push) (end func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	d := w.feed
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		cancel()
		return nil, ErrEnded
	}
	s := &subscriber{feed: d, filter: f, agents: map[string]bool{}, allowed: allowed, push: push, wake: make(chan struct{}, 1), cursor: d.last}
	for _, id := range f.Agents {
		s.agents[id] = true
	}
	if f.SinceSeq != nil {
		s.cursor = min(*f.SinceSeq, d.last)
	}
	s.catchUp()
	unlink := context.AfterFunc(d.ctx, cancel)
	done := make(chan struct{})
	d.parts.Go(func() {
		defer close(done)
		defer cancel()
		defer unlink()
		s.run(ctx)
		s.leave()
	})
	return func() { cancel(); <-done }, nil
}

// subscriber is one who listens. It first reads what it has missed in the log, and
// then gets what is new.
type subscriber struct {
	feed    *feed
	filter  Filter
	agents  map[string]bool // empty: all
	allowed func(string) bool
	push    Push
	wake    chan struct{}
	cursor  int64 // everything up to it was handed over

	// Of the feed's mutex:
	live  bool
	queue []*told
	lost  bool // there was no room in the queue
}

// catchUp makes the subscriber one that gets what is new, if it has missed
// nothing. The caller holds the feed's mutex.
func (s *subscriber) catchUp() {
	if s.live || s.cursor < s.feed.last {
		return
	}
	s.live = true
	if len(s.agents) == 0 {
		s.feed.all[s] = struct{}{}
	}
	for id := range s.agents {
		if s.feed.byAgent[id] == nil {
			s.feed.byAgent[id] = map[*subscriber]struct{}{}
		}
		s.feed.byAgent[id][s] = struct{}{}
	}
}

// leave takes the subscriber out of the feed.
func (s *subscriber) leave() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	delete(s.feed.all, s)
	for id := range s.agents {
		if delete(s.feed.byAgent[id], s); len(s.feed.byAgent[id]) == 0 {
			delete(s.feed.byAgent, id)
		}
	}
}

// offer queues an event. The caller holds the feed's mutex.
func (s *subscriber) offer(t *told) {
	switch {
	case s.lost || !s.filter.wants(&t.event):
		return
	case len(s.queue) == framesQueued:
		s.lost = true
	default:
		s.queue = append(s.queue, t)
	}
	signal(s.wake)
}

func (s *subscriber) run(ctx context.Context) {
	if !s.readLog(ctx) {
		s.lag(ctx)
		return
	}
	for {
		s.feed.mu.Lock()
		batch, lost := s.queue, s.lost
		s.queue = nil
		s.feed.mu.Unlock()
		for _, t := range batch {
			if !s.hand(ctx, t) {
				s.lag(ctx)
				return
			}
		}
		switch {
		case lost:
			s.lag(ctx)
			return
		case len(batch) > 0:
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
	}
}

// readLog hands over what the subscriber has missed, until that is nothing.
func (s *subscriber) readLog(ctx context.Context) (ok bool) {
	for {
		s.feed.mu.Lock()
		s.catchUp()
		live, last := s.live, s.feed.last
		s.feed.mu.Unlock()
		if live {
			return true
		}
		changes, err := s.feed.log.BreachChanges(ctx, s.cursor, replayPage)
		if err != nil {
			return false
		}
		for i := range changes {
			t := &told{event: eventOf(&changes[i])}
			if (len(s.agents) == 0 || s.agents[t.event.Breach.AgentID]) && s.filter.wants(&t.event) && !s.hand(ctx, t) {
				return false
			}
			s.cursor = changes[i].Seq
		}
		if len(changes) == 0 {
			s.cursor = last
		}
	}
}

// hand gives one event to the subscriber, if it may hear of it. It returns false
// when that takes too long.
func (s *subscriber) hand(ctx context.Context, t *told) bool {
	if s.allowed == nil || s.allowed(t.event.Breach.AgentID) {
		frame, err := t.bytes()
		if err != nil || !s.send(ctx, frame) {
			return false
		}
	}
	s.cursor = max(s.cursor, t.event.Seq)
	return true
}

func (s *subscriber) send(ctx context.Context, frame []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	return s.push(ctx, frame)
}

type notification struct {
	Version string `json:"jsonrpc"`
	Method  string `json:"method"`
	Params  any    `json:"params"`
}

// lag tells the subscriber where to resume.
func (s *subscriber) lag(ctx context.Context) {
	frame, err := json.Marshal(&notification{Version: "2.0", Method: "sla.lagged", Params: map[string]int64{"since_seq": s.cursor}})
	if err == nil && ctx.Err() == nil {
		s.send(ctx, frame)
	}
}
