package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// clocked is a store whose clock, if it has one of its own, is the test's.
type clocked struct {
	ledger.Store
	clock *clock
}

func (c *clocked) Renew(ctx context.Context, instance string, lead bool) (ledger.Standing, error) {
	s, err := c.Store.Renew(ctx, instance, lead)
	if !s.Now.IsZero() {
		s.Now = c.clock.Now()
	}
	return s, err
}

func (c *clocked) Update(ctx context.Context, f func(ledger.Tx) error) error {
	return c.Store.Update(ctx, func(tx ledger.Tx) error { return f(&clockedTx{tx, c.clock}) })
}

type clockedTx struct {
	ledger.Tx
	clock *clock
}

func (c *clockedTx) Load(ctx context.Context, n *ledger.Needs) (*ledger.Loaded, error) {
	got, err := c.Tx.Load(ctx, n)
	if err == nil && !got.Now.IsZero() {
		got.Now = c.clock.Now()
	}
	return got, err
}

// slow is a store whose next commit waits.
type slow struct {
	ledger.Store
	entered, leave chan struct{}
	armed          atomic.Bool
}

func (s *slow) Update(ctx context.Context, f func(ledger.Tx) error) error {
	if s.armed.CompareAndSwap(true, false) {
		close(s.entered)
		<-s.leave
	}
	return s.Store.Update(ctx, f)
}

// A task whose admission nobody waited for has not begun, and holds nothing.
func testDeserted(t *testing.T, b Backend) {
	s := &slow{entered: make(chan struct{}), leave: make(chan struct{})}
	r := start(t, b, func(r *rig) {
		r.wrap = func(under ledger.Store) ledger.Store {
			s.Store = under
			return s
		}
	})
	s.armed.Store(true)
	ctx, cancel := context.WithCancel(r.ctx)
	a := admission(1)
	a.Links, a.Ceiling = chain(1), new(metering.NanoUSD(7))
	told := make(chan error)
	go func() {
		_, err := r.ledger.Admit(ctx, a)
		told <- err
	}()
	<-s.entered
	cancel()
	if err := <-told; !errors.Is(err, context.Canceled) {
		t.Errorf("told %v", err)
	}
	close(s.leave)
	r.admit(admission(2)) // behind it
	if held, _, err := r.store.Holds(r.ctx); held != 1 || err != nil {
		t.Errorf("I5: %d held, %v", held, err)
	}
	a.TaskID = "task_again"
	if got := r.admit(a); got.Replay != nil {
		t.Errorf("asked again: %+v", got.Replay)
	}
	r.check(false)
}

// What an instance holds is its own while it lives, and is settled as lost when
// it is dead. One of those that would lead leads.
func testInstances(t *testing.T, b Backend) {
	if !b.Shared {
		return
	}
	one := start(t, b)
	two := start(t, b, func(r *rig) { r.clock = one.clock })
	if !one.ledger.Shared() || one.ledger.Instance() == two.ledger.Instance() {
		t.Fatalf("instances %q and %q, shared %v", one.ledger.Instance(), two.ledger.Instance(), one.ledger.Shared())
	}
	for n := range 5 {
		a := admission(n)
		a.Links, a.Ceiling = chain(10), new(metering.NanoUSD(5))
		one.admit(a)
	}
	recovered := func(want int) {
		t.Helper()
		if n, err := two.ledger.Recover(two.ctx); n != want || err != nil {
			t.Errorf("%d tasks recovered (%v), want %d", n, err, want)
		}
	}
	recovered(0)
	if err := two.store.Leave(two.ctx, one.ledger.Instance()); err != nil {
		t.Fatal(err)
	}
	recovered(5)
	recovered(0)
	one.refused(ledger.ErrTaskEnded, func() error {
		_, err := one.ledger.Settle(one.ctx, settlement(0))
		var ended *ledger.TaskEndedError
		if !errors.As(err, &ended) || string(ended.As.Answer) != "lost task_0" {
			t.Errorf("a settlement that comes too late: %v", err)
		}
		return err
	})
	a := admission(5) // who writes a new task is alive again
	a.Links, a.Ceiling = chain(10), new(metering.NanoUSD(5))
	one.admit(a)
	recovered(0)
	one.settle(settlement(5))
	if got := two.budget(chain(10)[0]); got.UsedTasks != 6 || got.HeldTasks != 0 {
		t.Errorf("budget %+v", got)
	}
	lead := func(instance string, would, want bool) {
		t.Helper()
		s, err := two.store.Renew(two.ctx, instance, would)
		if err != nil || s.Leads != want || s.Now.IsZero() {
			t.Errorf("%s stands %+v, %v; leads, want %v", instance, s, err, want)
		}
	}
	lead("a", false, false)
	lead("b", true, true)
	lead("a", true, false)
	lead("b", true, true)
	lead("b", false, false) // gives it up
	lead("a", true, true)
	lead("b", true, false)
	if err := two.store.Leave(two.ctx, "a"); err != nil {
		t.Fatal(err)
	}
	lead("b", true, true)
	one.check(false)
}

// Two ledgers on one store are one: limits, keys and the chain hold over both,
// whatever their machines' clocks say.
func testNodes(t *testing.T, b Backend) {
	if !b.Shared {
		return
	}
	one := start(t, b)
	two := start(t, b, func(r *rig) { r.clock = one.clock })
	rigs := [...]*rig{one, two}
	links := chain(100, 99, 98)
	var granted, refused, fresh atomic.Int64
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := range 4 {
				n := w*4 + i
				a := admission(n)
				a.Links = links
				switch _, err := rigs[n%2].ledger.Admit(one.ctx, a); {
				case err == nil:
					granted.Add(1)
					if _, err := rigs[(n/2)%2].ledger.Settle(one.ctx, settlement(n)); err != nil {
						t.Error(err)
					}
				case isLimit(err):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
			// Everybody sends the same envelope.
			a := admission(100_000)
			switch got, err := rigs[w%2].ledger.Admit(one.ctx, a); {
			case err != nil:
				t.Error(err)
			case got.Replay == nil:
				fresh.Add(1)
			}
		})
	}
	wg.Wait()
	if granted.Load() != 98 || refused.Load() != 256-98 || fresh.Load() != 1 {
		t.Errorf("%d granted, %d refused, %d of the same envelope began; want exactly 98, 158, 1", granted.Load(), refused.Load(), fresh.Load())
	}
	one.clock.advance(-time.Minute)
	one.settle(settlement(100_000))
	if got := two.admit(admission(100_000)); got.Replay == nil || string(got.Replay.Answer) != "answer 100000" {
		t.Errorf("asked on the other node: %+v", got.Replay)
	}
	one.check(false)
	two.check(false)
}
