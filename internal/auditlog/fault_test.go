package auditlog_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

var errFault = errors.New("injected fault")

// faulty is a store whose reads fail from the n-th step on: the opening of a
// snapshot, a question to it, or a row of an answer.
type faulty struct {
	auditlog.Store
	left int
}

func (f *faulty) step() error {
	if f.left--; f.left < 0 {
		return errFault
	}
	return nil
}

func (f *faulty) ReadAudit(ctx context.Context, do func(auditlog.Snapshot) error) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.Store.ReadAudit(ctx, func(s auditlog.Snapshot) error { return do(&faultySnapshot{s, f}) })
}

type faultySnapshot struct {
	auditlog.Snapshot
	f *faulty
}

func faultyRows[T any](f *faulty, rows iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for v, err := range rows {
			if err == nil {
				err = f.step()
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

func (s *faultySnapshot) Stored() (auditlog.Stored, error) {
	if err := s.f.step(); err != nil {
		return auditlog.Stored{}, err
	}
	return s.Snapshot.Stored()
}

func (s *faultySnapshot) Entries(from, to int64) iter.Seq2[audit.Row, error] {
	return faultyRows(s.f, s.Snapshot.Entries(from, to))
}

func (s *faultySnapshot) Hashes(from, to int64) iter.Seq2[[32]byte, error] {
	return faultyRows(s.f, s.Snapshot.Hashes(from, to))
}

func (s *faultySnapshot) Nodes(level int, from, to int64) iter.Seq2[audit.TreeNode, error] {
	return faultyRows(s.f, s.Snapshot.Nodes(level, from, to))
}

func (s *faultySnapshot) Checkpoints(from, to int64) iter.Seq2[audit.CheckpointRow, error] {
	return faultyRows(s.f, s.Snapshot.Checkpoints(from, to))
}

func (s *faultySnapshot) Newest(atMost int64) (audit.CheckpointRow, bool, error) {
	if err := s.f.step(); err != nil {
		return audit.CheckpointRow{}, false, err
	}
	return s.Snapshot.Newest(atMost)
}

func (s *faultySnapshot) Books() auditlog.Books { return &faultyBooks{s.Snapshot.Books(), s.f} }

type faultyBooks struct {
	auditlog.Books
	f *faulty
}

func (b *faultyBooks) Tasks() iter.Seq2[auditlog.Task, error] {
	return faultyRows(b.f, b.Books.Tasks())
}
func (b *faultyBooks) Records() iter.Seq2[auditlog.Record, error] {
	return faultyRows(b.f, b.Books.Records())
}
func (b *faultyBooks) Budgets() iter.Seq2[ledger.Budget, error] {
	return faultyRows(b.f, b.Books.Budgets())
}
func (b *faultyBooks) Rollups() iter.Seq2[ledger.Rollup, error] {
	return faultyRows(b.f, b.Books.Rollups())
}

func (b *faultyBooks) Indexed(urn string, block int64) (bool, error) {
	if err := b.f.step(); err != nil {
		return false, err
	}
	return b.Books.Indexed(urn, block)
}

func (b *faultyBooks) Delegations(from int64) (issued, revoked int64, err error) {
	if err := b.f.step(); err != nil {
		return 0, 0, err
	}
	return b.Books.Delegations(from)
}

// noMemory is a signer that has lost its memory, or whose memory cannot be read.
type noMemory struct{ err error }

func (m noMemory) Load() (audit.SignerState, error)  { return audit.SignerState{}, m.err }
func (m noMemory) Swap(_, _ audit.SignerState) error { return m.err }

// Whatever cannot be read, and wherever: the question ends with that error, never
// with an answer, and the sealer raises no alarm for it.
func TestFaultsWhileReading(t *testing.T) {
	w := open(t, t.TempDir())
	w.grow(30)
	half := time.Now()
	w.grow(300)
	ctx, keys := t.Context(), keysOf(t, 1)
	disk := &faulty{Store: w.store}
	log := auditlog.New(disk, origin, vkeyOf(t, 1), signer(w.dir))
	forgotten := auditlog.New(disk, origin, vkeyOf(t, 1), noMemory{fs.ErrNotExist})
	first := w.first(t)
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"verify", func() error { _, err := log.Verify(ctx, auditlog.Check{Keys: keys}); return err }},
		{"reconcile", func() error { _, err := log.Verify(ctx, auditlog.Check{Keys: keys, Reconcile: true}); return err }},
		{"a range", func() error { _, err := log.Verify(ctx, auditlog.Check{Keys: keys, From: 280, To: 290}); return err }},
		{"export", func() error { return log.Export(ctx, io.Discard, audit.JSONL) }},
		{"checkpoint", func() error { _, err := log.Checkpoint(ctx); return err }},
		{"inclusion", func() error { _, err := log.ProveInclusion(ctx, 7, 280); return err }},
		{"proof", func() error { _, err := log.Proof(ctx, 7); return err }},
		{"consistency", func() error { _, err := log.ProveConsistency(ctx, 30, 0); return err }},
		{"missing", func() error { _, _, err := auditlog.MemoryMissing(ctx, forgotten); return err }},
		{"adopt", func() error {
			_, err := auditlog.Adopt(ctx, forgotten, auditlog.Check{Keys: keys, Require: audit.Sealed})
			return err
		}},
		{"begin", func() error { return auditlog.Begin(ctx, forgotten, func(audit.SignerState) error { return nil }) }},
		{"prune", func() error {
			_, err := auditlog.Prune(ctx, log, keys, pruner{}, half, "test")
			return err
		}},
		{"seal", func() error {
			sign, err := audit.NewSigner(origin, testKey(1))
			if err != nil {
				return err
			}
			s := auditlog.NewSealer(log, w.ledger, slog.New(slog.DiscardHandler), sign)
			err = s.Seal(ctx)
			if s.Alarm() != nil {
				t.Errorf("a fault raised the alarm: %v", s.Alarm())
			}
			return err
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			for n := 0; ; n += 1 + n/8 {
				disk.left = n
				err := c.do()
				if disk.left >= 0 { // it came to its end before the fault
					if err != nil {
						t.Errorf("without a fault: %v", err)
					}
					break
				}
				if !errors.Is(err, errFault) {
					t.Errorf("a fault at step %d: %v", n, err)
				}
			}
		})
	}
	disk.left = 1 << 40
	broken := errors.New("no permission")
	blind := auditlog.New(disk, origin, vkeyOf(t, 1), noMemory{broken})
	if _, err := blind.Verify(ctx, auditlog.Check{}); !errors.Is(err, broken) {
		t.Errorf("a memory that cannot be read: %v", err)
	}
	if _, err := auditlog.Adopt(ctx, blind, auditlog.Check{}); !errors.Is(err, broken) {
		t.Errorf("adopted over a memory that cannot be read: %v", err)
	}
	if _, err := auditlog.Adopt(ctx, log, auditlog.Check{}); !errors.Is(err, auditlog.ErrMemoryPresent) {
		t.Errorf("adopted over a memory: %v", err)
	}
	if log.Origin() != origin || log.VKey() != vkeyOf(t, 1) || first == "" {
		t.Error("the log has lost its name")
	}
	// What is adopted is what can be sealed on.
	a, err := auditlog.Adopt(ctx, forgotten, auditlog.Check{Keys: keys, Require: audit.Sealed})
	if err != nil || a.Size != 300 || a.Entries != 300 {
		t.Fatalf("%+v %v", a, err)
	}
	event, err := a.Event("urn:asap:agent:operator")
	if err != nil || event.Type != auditlog.SignerAdopted {
		t.Errorf("%+v %v", event, err)
	}
	var state audit.SignerState
	if err := a.Remember(func(s audit.SignerState) error { state = s; return nil }); err != nil {
		t.Fatal(err)
	}
	have, err := signer(w.dir).Load()
	if err != nil || state.State.Head != have.State.Head || state.State.Tree.Root() != have.State.Tree.Root() || string(state.Note) != string(have.Note) {
		t.Errorf("adopted %+v, the memory was %+v, %v", state, have, err)
	}
	wrong := keysOf(t, 2)
	var refused *audit.IntegrityError
	if _, err := auditlog.Adopt(ctx, forgotten, auditlog.Check{Keys: wrong, Require: audit.Sealed}); !errors.As(err, &refused) {
		t.Errorf("adopted with a key that is not the node's: %v", err)
	}
}

// pruner takes a prune and does nothing.
type pruner struct{}

func (pruner) PruneAudit(context.Context, ledger.Prune) (ledger.Receipt, error) {
	return ledger.Receipt{}, nil
}

// first is the id of the first entry.
func (w *world) first(t *testing.T) string {
	t.Helper()
	entries, _, err := w.store.ListAudit(t.Context(), audit.Filter{}, 0, 1)
	if err != nil || len(entries) == 0 {
		t.Fatal(err)
	}
	return entries[0].ID
}
