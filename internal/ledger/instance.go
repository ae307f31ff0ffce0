package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/asap-protocol/asap-go/audit"
)

const (
	// InstanceLease is how long a run of a node counts as alive after it has
	// renewed that; its held tasks are settled as lost by others after it.
	InstanceLease = 15 * time.Second
	// LeadLease is how long a run leads after it has renewed that.
	LeadLease = 6 * time.Second
	// renewEvery is how often a run renews both.
	renewEvery = 2 * time.Second
	// renewTimeout bounds one attempt.
	renewTimeout = 3 * time.Second
	// leaveTimeout bounds the last words of a run.
	leaveTimeout = 2 * time.Second
)

// Standing is how an instance stands among those of a shared store.
type Standing struct {
	// Now is the store's clock; zero for a store of one node.
	Now time.Time
	// Leads tells that the instance leads until Now + LeadLease.
	Leads bool
}

// Instance names the ledger's run among those of a shared store.
func (l *Ledger) Instance() string { return l.instance }

// Shared tells whether other nodes may use the store at the same time.
func (l *Ledger) Shared() bool { return l.shared }

// Now is the time that all nodes of a shared store have in common: its clock, as
// far as it is known. On a store of one node it is Options.Now.
func (l *Ledger) Now() time.Time { return l.opts.Now().Add(time.Duration(l.ahead.Load())) }

// Leads tells whether this instance may do what only one of all nodes does. On a
// store of one node it always may. It goes by this machine's monotonic clock from
// before the lease was asked for, so that two do not lead at once; what must not
// happen twice is fenced by what it writes besides.
func (l *Ledger) Leads() bool {
	if !l.shared {
		return true
	}
	until := l.leads.Load()
	return until != nil && time.Now().Before(*until)
}

// renew says that the ledger's instance is alive, and learns the store's clock.
func (l *Ledger) renew(ctx context.Context) error {
	began, local := time.Now(), l.opts.Now()
	s, err := l.store.Renew(ctx, l.instance, l.opts.Lead)
	if err != nil || s.Now.IsZero() {
		return err
	}
	l.shared = true
	// The clock was read about in the middle.
	l.ahead.Store(int64(s.Now.Sub(local.Add(l.opts.Now().Sub(local) / 2))))
	if !s.Leads {
		l.leads.Store(nil)
		return nil
	}
	until := began.Add(LeadLease)
	l.leads.Store(&until)
	return nil
}

// keepAlive renews until ctx ends, and settles what dead instances left behind.
func (l *Ledger) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		bounded, cancel := context.WithTimeout(ctx, renewTimeout)
		err := l.renew(bounded)
		cancel()
		if err != nil { // whoever asks the ledger for anything is told
			continue
		}
		if n, err := l.Recover(ctx); err == nil && n > 0 {
			l.opts.Recovered(n)
		}
	}
}

// Recover settles, as lost, what instances that are dead by now have left behind,
// and returns how many tasks that were. Run does it every few seconds.
func (l *Ledger) Recover(ctx context.Context) (int, error) { return l.expireDead(ctx, l.do) }

// leave tells the others not to wait for this instance.
func (l *Ledger) leave(ctx context.Context) {
	l.leads.Store(nil)
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	_ = l.store.Leave(ctx, l.instance) // else its lease runs out
}

const (
	findOutAgain = 100 * time.Millisecond
	findOutMost  = 2 * time.Second
)

// findOut asks a shared store whether a commit of which nobody knows has
// happened: its last entry is in the log, or it is not. It asks until the store
// answers or the ledger is to end.
func (l *Ledger) findOut(ctx context.Context, b *book, unknown error) error {
	entries := b.changes.Entries
	for pause := findOutAgain; ; pause = min(2*pause, findOutMost) {
		happened := false
		err := l.store.Update(ctx, func(tx Tx) error {
			n := Needs{Head: true}
			var last *audit.Entry
			if len(entries) > 0 {
				last = &entries[len(entries)-1]
				n.Entry = &last.Seq
			}
			got, err := tx.Load(ctx, &n)
			if err == nil && last != nil {
				happened = got.Entry != nil && *got.Entry == last.Hash
			}
			return err
		})
		switch {
		case err == nil && happened:
			return nil
		case err == nil: // what adds no entry may happen twice
			return fmt.Errorf("%w: the store lost the commit", ErrUnavailable)
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-l.ending:
			again.Stop()
			return unknown
		case <-ctx.Done():
			again.Stop()
			return unknown
		}
	}
}
