package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// errFault is what an injected fault says.
var errFault = errors.New("injected fault")

// point is a step of a commit at which a fault strikes.
type point int

const (
	nowhere     point = iota
	beforeBegin       // the transaction cannot be opened
	afterLoad         // failed, not persisted
	beforeWrite
	afterWrite
	unpersisted // COMMIT fails and nobody knows: it did not happen
	persisted   // COMMIT fails and nobody knows: it did
)

func (p point) String() string {
	return [...]string{"nowhere", "beforeBegin", "afterLoad", "beforeWrite", "afterWrite", "unpersisted", "persisted"}[p]
}

// faulty is a store on which the next commit fails at a point. It belongs to the
// committer; the test sets the point while nothing is under way.
type faulty struct {
	ledger.Store
	at point
}

func (f *faulty) Update(ctx context.Context, do func(ledger.Tx) error) error {
	at := f.at
	f.at = nowhere
	if at == beforeBegin {
		return errFault
	}
	err := f.Store.Update(ctx, func(tx ledger.Tx) error {
		err := do(&faultyTx{tx, at})
		if err == nil && at == unpersisted {
			return errFault
		}
		return err
	})
	if at == unpersisted && errors.Is(err, errFault) || at == persisted && err == nil {
		return fmt.Errorf("%w: %w", ledger.ErrOutcomeUnknown, errFault)
	}
	return err
}

type faultyTx struct {
	ledger.Tx
	at point
}

func (f *faultyTx) Load(ctx context.Context, n *ledger.Needs) (*ledger.Loaded, error) {
	got, err := f.Tx.Load(ctx, n)
	if f.at == afterLoad {
		return nil, errFault
	}
	return got, err
}

func (f *faultyTx) Write(ctx context.Context, c *ledger.Changes) error {
	if f.at == beforeWrite {
		return errFault
	}
	err := f.Tx.Write(ctx, c)
	if f.at == afterWrite {
		return errFault
	}
	return err
}

// testFaults is the crash table: for each operation and each step, what the
// caller is told, what is there afterwards, and that a retry ends well.
func testFaults(t *testing.T, b Backend) {
	if b.Forgets {
		return
	}
	operations := []struct {
		name string
		do   func(r *rig, n int) error
	}{
		{"admit", func(r *rig, n int) error {
			a := admission(n)
			a.Links, a.Ceiling = chain(1000), new(metering.NanoUSD(1))
			_, err := r.ledger.Admit(r.ctx, a)
			return err
		}},
		{"settle", func(r *rig, n int) error {
			_, err := r.ledger.Settle(r.ctx, settlement(n))
			if errors.Is(err, ledger.ErrTaskEnded) {
				return nil // recovery came first
			}
			return err
		}},
		{"release", func(r *rig, n int) error {
			_, err := r.ledger.Release(r.ctx, admission(n).TaskID, "test")
			if errors.Is(err, ledger.ErrTaskEnded) {
				return nil
			}
			return err
		}},
		{"record", func(r *rig, n int) error {
			_, err := r.ledger.Record(r.ctx, reports(n*10, n*10+3), ledger.Atomic)
			return err
		}},
		{"correct", func(r *rig, n int) error {
			_, err := r.ledger.Correct(r.ctx, ledger.Correction{Correction: metering.Correction{
				ID: fmt.Sprintf("void_%d", n), Kind: metering.Void, Ref: report(n * 10).Record.ID}})
			return err
		}},
	}
	disk := &faulty{}
	r := start(t, b, func(r *rig) {
		r.wrap = func(s ledger.Store) ledger.Store {
			disk.Store = s
			return disk
		}
	})
	n := 0
	for _, op := range operations {
		for at := beforeBegin; at <= persisted; at++ {
			n++
			t.Run(op.name+"/"+at.String(), func(t *testing.T) {
				switch op.name { // what the operation builds on
				case "settle", "release":
					r.admit(admission(n))
				case "correct":
					if _, err := r.ledger.Record(r.ctx, reports(n*10, n*10+3), ledger.Atomic); err != nil {
						t.Fatal(err)
					}
				}
				size := len(r.log())
				// The committer is idle between operations: it reads this only
				// after the operation was queued.
				disk.at = at
				err := op.do(r, n)
				unknown := at == unpersisted || at == persisted
				if b.Shared && unknown { // the ledger finds out and goes on
					unknown = false
					if at == unpersisted && (!errors.Is(err, ledger.ErrUnavailable) || errors.Is(err, ledger.ErrOutcomeUnknown)) || at == persisted && err != nil {
						t.Fatalf("the caller was told %v", err)
					}
				} else if !errors.Is(err, errFault) || errors.Is(err, ledger.ErrOutcomeUnknown) != unknown || !unknown && !errors.Is(err, ledger.ErrUnavailable) {
					t.Fatalf("the caller was told %v", err)
				}
				if grown := len(r.log()) > size; grown != (at == persisted) {
					t.Errorf("entries were added: %v", grown)
				}
				if unknown {
					if err := op.do(r, n); !errors.Is(err, ledger.ErrOutcomeUnknown) {
						t.Errorf("a ledger that has stopped answers %v", err)
					}
					if err := r.stop(); !errors.Is(err, ledger.ErrOutcomeUnknown) {
						t.Errorf("run ended with %v", err)
					}
					r.restart()
				}
				if err := op.do(r, n); err != nil {
					t.Errorf("the retry: %v", err)
				}
				r.check(false)
			})
		}
	}
	// A fault during recovery keeps the node from starting, and the next try is whole.
	for at := beforeBegin; at <= persisted; at++ {
		n++
		r.admit(admission(n))
		r.down()
		disk.at = at
		switch err := r.tryUp(); {
		case b.Shared && at == persisted:
			if err != nil {
				t.Fatalf("recovery with a fault %v: %v", at, err)
			}
		case b.Shared && at == unpersisted && errors.Is(err, ledger.ErrUnavailable), errors.Is(err, errFault):
			r.store = nil
			disk.at = nowhere
			r.up()
		default:
			t.Fatalf("recovery with a fault %v: %v", at, err)
		}
		if held, _, err := r.store.Holds(r.ctx); held != 0 || err != nil {
			t.Errorf("fault %v: %d held, %v", at, held, err)
		}
		r.check(false)
	}
}
