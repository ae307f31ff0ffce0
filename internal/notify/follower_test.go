package notify

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asap-protocol/asap-go/internal/ledger"
)

// growing is a log that grows, and that may be out of reach.
type growing struct {
	mu       sync.Mutex
	head     int64
	cut      error
	readings atomic.Int64
}

func (g *growing) News(_ context.Context, after int64) (ledger.News, error) {
	g.readings.Add(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	n := ledger.News{Head: g.head}
	for seq := g.head; seq > after; seq-- {
		n.Revocations = append([]ledger.Revocation{{Receipt: ledger.Receipt{Seq: seq}}}, n.Revocations...)
	}
	return n, g.cut
}

func (g *growing) grow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.head++
}

func (g *growing) reach(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = err
}

// run follows a log inside a bubble and returns what was handed on.
func run(t *testing.T, log *growing, shared bool) (f *Follower, got func() []int64) {
	t.Helper()
	var mu sync.Mutex
	var seqs []int64
	f, err := Follow(t.Context(), log, Options{Shared: func() bool { return shared }, Apply: func(n ledger.News) {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range n.Revocations {
			seqs = append(seqs, r.Receipt.Seq)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return f, func() []int64 {
		mu.Lock()
		defer mu.Unlock()
		return append([]int64(nil), seqs...)
	}
}

func TestWokenAtOnceAndPolledElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &growing{head: 4}
		f, got := run(t, log, true)
		synctest.Wait()
		log.grow()
		moved := f.Moved()
		f.Wake()
		<-moved // before the next poll
		if len(got()) != 1 || got()[0] != 5 || f.Position() != 5 {
			t.Errorf("handed on %v, at %d", got(), f.Position())
		}
		log.grow() // and nobody says so
		log.grow()
		began := time.Now()
		<-f.Moved()
		if took := time.Since(began); took > PollEvery || len(got()) != 3 || got()[2] != 7 {
			t.Errorf("handed on %v after %s", got(), took)
		}
	})
}

// A log of one node is read when that has committed, and never else.
func TestNobodyElseWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &growing{head: -1}
		f, got := run(t, log, false)
		synctest.Wait()
		before := log.readings.Load()
		time.Sleep(time.Hour)
		if log.readings.Load() != before || f.Age() != 0 {
			t.Errorf("%d readings in an hour, age %s", log.readings.Load()-before, f.Age())
		}
		log.grow()
		f.Wake()
		synctest.Wait()
		if len(got()) != 1 || f.Fresh(t.Context()) != nil {
			t.Errorf("handed on %v", got())
		}
	})
}

// What is known ages while the log is out of reach; who needs it fresh is told, or
// has it read.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &growing{}
		f, got := run(t, log, true)
		time.Sleep(time.Second)
		lost := errors.New("connection lost")
		log.reach(lost)
		time.Sleep(StaleAfter - PollEvery)
		if err := f.Fresh(t.Context()); err != nil {
			t.Errorf("at the age of %s: %v", f.Age(), err)
		}
		time.Sleep(2 * PollEvery)
		before := log.readings.Load()
		for range 10 {
			if err := f.Fresh(t.Context()); !errors.Is(err, lost) || !errors.Is(err, errStale) {
				t.Errorf("at the age of %s: %v", f.Age(), err)
			}
		}
		if n := log.readings.Load() - before; n > 1 {
			t.Errorf("ten questions at once are %d readings", n)
		}
		log.reach(nil)
		log.grow()
		time.Sleep(againAfter)
		if err := f.Fresh(t.Context()); err != nil || len(got()) != 1 {
			t.Errorf("in reach again: %v, handed on %v", err, got())
		}
	})
}
