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
	// recentChanges is how many changes are at hand: a subscriber that is further
	// behind is dropped.
	recentChanges = 4096
	// pushAgain is when a frame that a subscriber had no room for is tried again.
	pushAgain = 20 * time.Millisecond
	// Patience is how long a subscriber may have no room.
	Patience = 5 * time.Second
	// replayPage is how many changes are read from the log at once.
	replayPage = 500
)

// feed hands recorded changes to those who listen, in order. Nobody is waited for.
type feed struct {
	log Log

	mu              sync.Mutex // guards what follows
	recent          []ledger.BreachChange
	base            int64 // changes after it are in recent
	last            int64
	subs            map[chan struct{}]struct{} // one token: there are new changes
	hooks           []*hookQueue
	ended           chan struct{}
	running, closed bool
	parts           sync.WaitGroup
}

func newFeed(log Log) *feed {
	return &feed{log: log, base: -1, last: -1, subs: map[chan struct{}]struct{}{}, ended: make(chan struct{})}
}

// load finds where the log ends.
func (f *feed) load(ctx context.Context) error {
	last, err := f.log.LastBreachChange(ctx)
	f.base, f.last = last, last
	return err
}

// publish tells changes that have become durable.
func (f *feed) publish(changes []ledger.BreachChange) {
	if len(changes) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recent = append(f.recent, changes...)
	f.last = changes[len(changes)-1].Seq
	if over := len(f.recent) - recentChanges; over > 0 {
		f.base = f.recent[over-1].Seq
		f.recent = slices.Clone(f.recent[over:])
	}
	for wake := range f.subs {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	for _, h := range f.hooks {
		for i := range changes {
			h.offer(eventOf(&changes[i]))
		}
	}
}

// start lets the hooks run.
func (f *feed) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = true
	for _, h := range f.hooks {
		f.parts.Go(func() { h.run(f.ended) })
	}
}

// close ends all subscriptions and hooks, and waits for them.
func (f *feed) close() {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.ended)
	}
	f.mu.Unlock()
	f.parts.Wait()
}

// after returns what is at hand after a position; far tells that something before
// it is only in the log.
func (f *feed) after(seq int64) (changes []ledger.BreachChange, far bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq < f.base {
		return nil, true
	}
	i, _ := slices.BinarySearchFunc(f.recent, seq+1, func(c ledger.BreachChange, seq int64) int {
		switch {
		case c.Seq < seq:
			return -1
		case c.Seq > seq:
			return 1
		}
		return 0
	})
	return f.recent[i:len(f.recent):len(f.recent)], false
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

// wants tells whether a change passes. A breach that was critical once passes a
// filter for critical ones to its end, so that it is heard of.
func (f *Filter) wants(c *ledger.BreachChange) bool {
	b := &c.Breach
	return (len(f.Agents) == 0 || slices.Contains(f.Agents, b.Agent)) &&
		(len(f.Objectives) == 0 || slices.Contains(f.Objectives, b.Objective)) &&
		(len(f.Windows) == 0 || slices.Contains(f.Windows, b.Window.String())) &&
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

// Subscribe hands frames, each one a JSON-RPC notification, to push, until ctx or
// the watch ends or end is called, which waits for it. allowed says of which
// agents the subscriber may hear; nil is all. push must not block; it returns
// false if there is no room. A subscriber that has none for too long, or has
// fallen too far behind, gets sla.lagged with the position from which to resume,
// and nothing more.
func (w *Watch) Subscribe(ctx context.Context, f Filter, allowed func(agentID string) bool, push func(frame []byte) bool) (end func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	wake := make(chan struct{}, 1)
	d := w.feed
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		cancel()
		return nil, ErrEnded
	}
	s := &subscriber{feed: d, filter: f, allowed: allowed, push: push, wake: wake, cursor: d.last, live: f.SinceSeq == nil}
	if f.SinceSeq != nil {
		s.cursor = min(*f.SinceSeq, d.last)
	}
	d.subs[wake] = struct{}{}
	done := make(chan struct{})
	d.parts.Go(func() {
		defer close(done)
		defer cancel()
		s.run(ctx)
		d.mu.Lock()
		delete(d.subs, wake)
		d.mu.Unlock()
	})
	return func() { cancel(); <-done }, nil
}

type subscriber struct {
	feed    *feed
	filter  Filter
	allowed func(string) bool
	push    func([]byte) bool
	wake    chan struct{}
	cursor  int64
	live    bool // it has caught up once
}

func (s *subscriber) run(ctx context.Context) {
	for {
		changes, far := s.feed.after(s.cursor)
		switch {
		case far && s.live:
			s.lag(ctx)
			return
		case far:
			var err error
			if changes, err = s.feed.log.BreachChanges(ctx, s.cursor, replayPage); err != nil || len(changes) == 0 {
				s.lag(ctx)
				return
			}
		default:
			s.live = true
		}
		for i := range changes {
			c := &changes[i]
			if s.filter.wants(c) && (s.allowed == nil || s.allowed(c.Breach.Agent)) {
				frame, err := json.Marshal(&notification{Version: "2.0", Method: "sla.breach", Params: eventOf(c)})
				if err != nil || !s.hand(ctx, frame) {
					s.lag(ctx)
					return
				}
			}
			s.cursor = c.Seq
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-s.feed.ended:
			return
		case <-s.wake:
		}
	}
}

type notification struct {
	Version string `json:"jsonrpc"`
	Method  string `json:"method"`
	Params  any    `json:"params"`
}

// hand pushes a frame, again and again while there is no room. It returns false
// when that takes too long.
func (s *subscriber) hand(ctx context.Context, frame []byte) bool {
	if s.push(frame) {
		return true
	}
	again := time.NewTicker(pushAgain)
	defer again.Stop()
	until := time.NewTimer(Patience)
	defer until.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.feed.ended:
			return false
		case <-until.C:
			return false
		case <-again.C:
			if s.push(frame) {
				return true
			}
		}
	}
}

// lag tells the subscriber where to resume.
func (s *subscriber) lag(ctx context.Context) {
	frame, err := json.Marshal(&notification{Version: "2.0", Method: "sla.lagged", Params: map[string]int64{"since_seq": s.cursor}})
	if err == nil && ctx.Err() == nil {
		s.hand(ctx, frame)
	}
}
