package slawatch

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
)

// changeLog is a log of changes in memory. A position is an index.
type changeLog struct {
	mu   sync.Mutex // guards list
	list []ledger.BreachChange
}

func (l *changeLog) Breaches(context.Context, BreachFilter) ([]ledger.Breach, int, error) {
	return nil, 0, nil
}

func (l *changeLog) BreachChanges(_ context.Context, after int64, limit int) ([]ledger.BreachChange, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := min(after+1, int64(len(l.list)))
	return l.list[from:min(from+int64(limit), int64(len(l.list)))], nil
}

func (l *changeLog) LastBreachChange(context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.list)) - 1, nil
}

// add appends changes about agents in turn.
func (l *changeLog) add(n int) []ledger.BreachChange {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := len(l.list)
	for i := range n {
		seq := from + i
		l.list = append(l.list, ledger.BreachChange{Seq: int64(seq), Kind: sla.Firing,
			Breach: ledger.Breach{Breach: sla.Breach{ID: fmt.Sprint(seq), Agent: fmt.Sprintf("agent-%d", seq%10), Severity: sla.Warning, SeverityMax: sla.Warning}}})
	}
	return slices.Clone(l.list[from:])
}

// listener collects the positions it hears of, and where it was dropped.
type listener struct {
	t    *testing.T
	open chan struct{} // closed: there is room
	got  chan int64
	lag  chan int64
}

func listen(t *testing.T) *listener {
	return &listener{t, make(chan struct{}), make(chan int64, 20_000), make(chan int64, 1)}
}

func (l *listener) push(ctx context.Context, frame []byte) bool {
	select {
	case <-l.open:
	case <-ctx.Done():
		return false
	}
	var f struct {
		Method string `json:"method"`
		Params struct {
			Seq   int64 `json:"seq"`
			Since int64 `json:"since_seq"`
		} `json:"params"`
	}
	if err := json.Unmarshal(frame, &f); err != nil {
		l.t.Error(err)
	}
	if f.Method == "sla.lagged" {
		l.lag <- f.Params.Since
	} else {
		l.got <- f.Params.Seq
	}
	return true
}

// Whoever falls behind is dropped with a position, and has everything when it
// resumes there; whoever keeps up has everything at once.
func TestStormLosesNothing(t *testing.T) {
	log := &changeLog{}
	w := &Watch{feed: newFeed(log)}
	defer w.feed.close()
	if err := w.feed.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	subscribe := func(f Filter, l *listener) func() {
		end, err := w.Subscribe(t.Context(), f, nil, l.push)
		if err != nil {
			t.Fatal(err)
		}
		return end
	}
	slow, one := listen(t), listen(t)
	defer subscribe(Filter{}, slow)()
	defer subscribe(Filter{Agents: []string{"agent-3", "agent-3"}}, one)()
	const storm = 3 * framesQueued
	for range 12 {
		w.feed.publish(log.add(storm / 12))
	}
	close(slow.open)
	close(one.open)
	since := <-slow.lag
	if since < framesQueued-1 || since >= storm-1 {
		t.Errorf("dropped at %d", since)
	}
	again := listen(t)
	close(again.open)
	defer subscribe(Filter{SinceSeq: &since}, again)()
	more := log.add(10) // while it catches up
	w.feed.publish(more)
	var heard []int64
	for range since + 1 {
		heard = append(heard, <-slow.got)
	}
	for range storm + 10 - (since + 1) {
		heard = append(heard, <-again.got)
	}
	for i, seq := range heard {
		if seq != int64(i) {
			t.Fatalf("event %d is heard of as number %d", seq, i)
		}
	}
	for i := range (storm+10)/10 + 1 {
		if seq := <-one.got; seq != int64(10*i+3) {
			t.Fatalf("the one who listens to agent-3 hears of %d as number %d", seq, i)
		}
		if 10*(i+1)+3 >= storm+10 {
			break
		}
	}
	if len(slow.got)+len(again.got)+len(one.got) > 0 {
		t.Error("something is heard of twice")
	}
}
