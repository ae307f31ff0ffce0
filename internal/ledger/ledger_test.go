package ledger

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// gate is an empty store whose commits wait to be let through.
type gate struct {
	entered chan int // number of entries of each commit, before it may end
	pass    chan error
	head    audit.Head
	// standing is what Renew says.
	standing Standing
}

func newGate() *gate { return &gate{entered: make(chan int), pass: make(chan error)} }

func (g *gate) Close() error { return nil }

func (g *gate) Renew(context.Context, string, bool) (Standing, error) { return g.standing, nil }

func (g *gate) Leave(context.Context, string) error { return nil }

func (g *gate) Update(_ context.Context, f func(Tx) error) error {
	tx := &gateTx{g: g}
	if err := f(tx); err != nil {
		return err
	}
	if tx.changes == nil {
		return nil
	}
	g.entered <- len(tx.changes.Entries)
	if err := <-g.pass; err != nil {
		if errors.Is(err, errPersisted) {
			g.keep(tx.changes)
		}
		return err
	}
	g.keep(tx.changes)
	return nil
}

// keep makes changes durable.
func (g *gate) keep(c *Changes) {
	last := c.Entries[len(c.Entries)-1]
	g.head = audit.Head{Size: last.Seq + 1, Hash: last.Hash, TimestampUS: last.Timestamp.UnixMicro(), LastID: last.ID}
}

type gateTx struct {
	g       *gate
	changes *Changes
}

func (t *gateTx) Load(_ context.Context, n *Needs) (*Loaded, error) {
	got := &Loaded{Now: t.g.standing.Now, Head: t.g.head}
	if n.Entry != nil && *n.Entry == t.g.head.Size-1 {
		got.Entry = &t.g.head.Hash
	}
	return got, nil
}

func (t *gateTx) Write(_ context.Context, c *Changes) error { t.changes = c; return nil }

var event = audit.Event{Type: audit.ConfigChanged, Actor: "urn:asap:agent:operator"}

func TestOpenNeedsAnOrigin(t *testing.T) {
	if _, err := Open(t.Context(), newGate(), Options{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// What gathers during a commit is one commit; what does not fit in the queue is
// refused by name; a caller that goes away does not take its operation along.
func TestGroupsQueueAndCancel(t *testing.T) {
	defer goleak.VerifyNone(t)
	g := newGate()
	l, err := Open(t.Context(), g, Options{Origin: "test.example/log", Queue: 3})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()

	var wg sync.WaitGroup
	post := func(ctx context.Context, want error) {
		wg.Go(func() {
			if _, err := l.Append(ctx, event); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
	post(t.Context(), nil)
	if n := <-g.entered; n != 1 {
		t.Errorf("first commit has %d entries", n)
	}
	leaving, leave := context.WithCancel(t.Context())
	post(t.Context(), nil)
	post(t.Context(), nil)
	left := make(chan error)
	go func() { _, err := l.Append(leaving, event); left <- err }()
	for len(l.queue) < 3 { // the three are on their way into the queue
		yield()
	}
	if _, err := l.Append(t.Context(), event); !errors.Is(err, ErrOverloaded) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("with a full queue: %v", err)
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	g.pass <- nil
	if n := <-g.entered; n != 3 {
		t.Errorf("second commit has %d entries, want the three that waited", n)
	}
	stop() // what was handed in is still committed
	g.pass <- nil
	wg.Wait()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if g.head.Size != 4 {
		t.Errorf("%d entries, want 4", g.head.Size)
	}
	if _, err := l.Append(t.Context(), event); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// errPersisted is a commit that happened although nobody was told.
var errPersisted = fmt.Errorf("%w: the connection was lost", ErrOutcomeUnknown)

// On a store that nodes share the ledger finds out what became of a commit, tells
// its callers that, and goes on. Its time is the store's.
func TestSharedLedgerFindsOut(t *testing.T) {
	defer goleak.VerifyNone(t)
	g := newGate()
	ahead := time.Now().Add(time.Hour)
	g.standing = Standing{Now: ahead, Leads: true}
	l, err := Open(t.Context(), g, Options{Origin: "test.example/log", Lead: true})
	if err != nil {
		t.Fatal(err)
	}
	if !l.Shared() || !l.Leads() || l.Now().Before(ahead) {
		t.Errorf("shared %v, leads %v, at %s", l.Shared(), l.Leads(), l.Now())
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	for _, c := range []struct{ outcome, want error }{{errPersisted, nil}, {ErrOutcomeUnknown, ErrUnavailable}, {nil, nil}} {
		told := make(chan error)
		go func() {
			_, err := l.Append(t.Context(), event)
			told <- err
		}()
		<-g.entered
		g.pass <- c.outcome
		if err := <-told; !errors.Is(err, c.want) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("outcome %v: told %v", c.outcome, err)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if g.head.Size != 2 || g.head.TimestampUS != ahead.UTC().UnixMicro() {
		t.Errorf("the log ends at %d, %d", g.head.Size, g.head.TimestampUS)
	}
	if l.Leads() {
		t.Error("it leads after its end")
	}
}

// After an unknown outcome nobody is answered as if nothing had happened.
func TestUnknownOutcomeStopsTheLedger(t *testing.T) {
	defer goleak.VerifyNone(t)
	g := newGate()
	l, err := Open(t.Context(), g, Options{Origin: "test.example/log"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- l.Run(t.Context()) }()
	var wg sync.WaitGroup
	post := func() {
		wg.Go(func() {
			if _, err := l.Append(t.Context(), event); !errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("got %v", err)
			}
		})
	}
	post()
	<-g.entered
	post()
	post()
	for len(l.queue) < 2 {
		yield()
	}
	// One that needs a group of its own, taken from the queue before the stop.
	wg.Go(func() {
		if _, err := l.Purge(t.Context(), time.Now()); !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("got %v", err)
		}
	})
	for len(l.queue) < 3 {
		yield()
	}
	g.pass <- ErrOutcomeUnknown
	wg.Wait()
	if err := <-ended; !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("run: %v", err)
	}
}

// yield lets other goroutines run; the event waited for needs no time.
func yield() { runtime.Gosched() }

func TestNoRandomness(t *testing.T) {
	l, err := Open(t.Context(), newGate(), Options{Origin: "test.example/log", Entropy: iotest.ErrReader(errors.New("no randomness"))})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.alone(t.Context(), &appendEvents{events: []audit.Event{event}}); err == nil || !strings.Contains(err.Error(), "no randomness") {
		t.Errorf("got %v", err)
	}
}

func TestBudgetsNeverOverflow(t *testing.T) {
	full := metering.NanoUSD(1<<63 - 1)
	b := Budget{UsedNanoUSD: full, HeldNanoUSD: full - 1}
	if _, err := b.reserve(0, new(metering.NanoUSD(2))); !errors.Is(err, metering.ErrOverflow) {
		t.Errorf("reserve: %v", err)
	}
	if got := b.settle(new(metering.NanoUSD(1)), 5); got.UsedNanoUSD != full || got.OverrunNanoUSD != 4 {
		t.Errorf("settle: %+v", got)
	}
	b.LimitNanoUSD = &full
	if left, limited := b.RemainingNanoUSD(); left != 0 || !limited {
		t.Errorf("remaining %d", left)
	}
}

func TestWordsForPeople(t *testing.T) {
	limit := &LimitError{Link: 1, TokenID: "del_1", Unit: UnitTasks, Limit: 3, Used: 3, Needed: 1}
	for _, c := range []struct{ got, want string }{
		{limit.Error(), "delegation_limit_tasks: link 1 (del_1): limit 3 tasks, used 3, held 0, remaining 0, needed 1"},
		{(&ItemError{2, ErrConflict}).Error(), "item 2: conflicts with what the ledger holds"},
		{Held.String() + Settled.String() + Released.String() + Expired.String(), "heldsettledreleasedexpired"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
