package auditlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

const (
	// SealEvery is how long an entry waits for its checkpoint at most.
	SealEvery = time.Second
	// SealAt is how many entries are sealed at once at most, before the time is up.
	SealAt = 1024
)

// ErrAlarm reports a log that is not what was signed before. It does not go
// away: the log has to be looked at (asap audit verify).
var ErrAlarm = errors.New("audit.integrity_alarm")

// Writer is the way of a checkpoint into the store; *ledger.Ledger is one. It
// returns when the checkpoint is durable.
type Writer interface {
	StoreCheckpoint(ctx context.Context, c audit.CheckpointRow, nodes ...audit.TreeNode) error
}

// Sealer signs checkpoints of a log. It reads what came since the last one as a
// stranger would, and signs only what continues what it remembers to have signed.
// The first mismatch is an alarm: nothing is signed any more, nothing is mended.
type Sealer struct {
	log     *Log
	write   Writer
	signers []note.Signer
	logger  *slog.Logger

	wake    chan struct{}
	waiting atomic.Int64 // entries since the last wake-up

	// keys and create are set where several sealers share a log: whose notes they
	// take over, and what makes a memory that is missing.
	keys   audit.Keys
	create func(audit.SignerState) error

	mu     sync.Mutex // one seal at a time
	stored bool       // the note in memory is in the store
	alarm  atomic.Pointer[error]
	sealed atomic.Int64
}

// NewSealer returns the sealer of a log that has a memory. All signers sign; the
// first is the log's own.
func NewSealer(log *Log, write Writer, logger *slog.Logger, signers ...note.Signer) *Sealer {
	return &Sealer{log: log, write: write, signers: signers, logger: logger, wake: make(chan struct{}, 1)}
}

// Alarm returns why nothing is signed any more, an ErrAlarm; nil while all is well.
func (s *Sealer) Alarm() error {
	if err := s.alarm.Load(); err != nil {
		return *err
	}
	return nil
}

// Sealed is the size of the checkpoint signed last.
func (s *Sealer) Sealed() int64 { return s.sealed.Load() }

// Committed tells the sealer that n entries were appended. It does not block.
func (s *Sealer) Committed(n int) {
	if s.waiting.Add(int64(n)) < SealAt {
		return
	}
	s.waiting.Store(0)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run seals until ctx ends, and once more then. The writer must outlive it.
func (s *Sealer) Run(ctx context.Context) {
	ticker := time.NewTicker(SealEvery)
	defer ticker.Stop()
	for {
		s.attempt(ctx)
		select {
		case <-ctx.Done():
			s.attempt(context.WithoutCancel(ctx))
			return
		case <-ticker.C:
		case <-s.wake:
		}
	}
}

// attempt seals and logs what went wrong; what is no alarm is tried again.
func (s *Sealer) attempt(ctx context.Context) {
	if s.Alarm() != nil {
		return
	}
	if err := s.Seal(ctx); err != nil && s.Alarm() == nil && ctx.Err() == nil {
		s.logger.ErrorContext(ctx, "audit log not sealed, will try again", "error", err)
	}
}

// Seal signs what was appended since the last checkpoint, if anything. The state
// of the signer is durable before the note is stored.
func (s *Sealer) Seal(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Alarm(); err != nil {
		return err
	}
	err := s.catchUp(ctx)
	if err == nil {
		err = s.seal(ctx)
	}
	if err != nil && isMismatch(err) {
		err = s.raise(ctx, err)
	}
	return err
}

// raise makes an error the alarm.
func (s *Sealer) raise(ctx context.Context, err error) error {
	err = fmt.Errorf("%w: %w", ErrAlarm, err)
	s.alarm.Store(&err)
	s.logger.ErrorContext(ctx, ErrAlarm.Error()+": the audit log is not what was signed; nothing more is signed, run asap audit verify", "error", err)
	return err
}

// errMemoryMissing reports a log with entries whose signer remembers nothing.
var errMemoryMissing = errors.New("the signer's memory of this log is missing: put the file back, or if it is lost, stop the node and run asap audit adopt")

// isMismatch tells a log that differs from what was signed from trouble that
// may pass.
func isMismatch(err error) bool {
	var broken *audit.IntegrityError
	return errors.As(err, &broken) || errors.Is(err, audit.ErrRolledBack) || errors.Is(err, audit.ErrForked) ||
		errors.Is(err, audit.ErrSignerState) || errors.Is(err, errMemoryMissing)
}

func (s *Sealer) seal(ctx context.Context) error {
	state, err := s.log.memory.Load()
	if isNotExist(err) {
		return errMemoryMissing
	}
	if err != nil {
		return err
	}
	next, nodes, err := s.sign(ctx, state)
	if err != nil {
		return err
	}
	if next != nil {
		if err := s.log.memory.Swap(state, *next); err != nil {
			return err
		}
		state, s.stored = *next, false
	}
	if s.stored || len(state.Note) == 0 {
		return nil
	}
	if err := s.write.StoreCheckpoint(ctx, audit.CheckpointRow{Size: state.State.Tree.Size(), Root: state.State.Tree.Root(), Note: state.Note}, nodes...); err != nil {
		return fmt.Errorf("store checkpoint: %w", err)
	}
	s.stored = true
	s.sealed.Store(state.State.Tree.Size())
	if next == nil { // that was the note of a run that died; now what came since
		return s.seal(ctx)
	}
	return nil
}

// sign checks what is new and signs it; nil if there is nothing new, or if the
// note before has to be stored first. nodes are what the tree has then and the
// store has not.
func (s *Sealer) sign(ctx context.Context, state audit.SignerState) (next *audit.SignerState, nodes []audit.TreeNode, err error) {
	err = s.log.store.ReadAudit(ctx, func(snap Snapshot) error {
		stored, err := snap.Stored()
		if err != nil {
			return err
		}
		head := audit.HeadRow{Hash: audit.GenesisHash(s.log.origin)}
		if stored.Head != nil {
			head = *stored.Head
		}
		if !s.stored && len(state.Note) > 0 {
			if s.stored, err = s.holds(snap, &stored, state); err != nil || !s.stored {
				return err
			}
			s.sealed.Store(state.State.Head.Size)
		}
		if stored.Rows < state.State.Head.Size {
			return fmt.Errorf("%w: %d entries are left of %d that were signed", audit.ErrRolledBack, stored.Rows, state.State.Head.Size)
		}
		if len(state.Note) > 0 && head.Size == state.State.Head.Size && head.Hash == state.State.Head.Hash && stored.Rows == head.Size {
			return nil // nothing happened
		}
		out, err := audit.Seal(state, snap.Entries(state.State.Head.Size, math.MaxInt64), head, s.signers...)
		next = &out
		if err == nil {
			nodes, err = newNodes(snap, &stored, out.State.Head.Size)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return next, nodes, nil
}

// holds tells whether the store has the note of the state. A crash may have come
// between signing and storing; a store that has newer notes than the signer
// remembers is not that.
func (s *Sealer) holds(snap Snapshot, stored *Stored, state audit.SignerState) (bool, error) {
	row, found, err := snap.Newest(math.MaxInt64)
	if err != nil {
		return false, err
	}
	if found && row.Size > state.State.Head.Size {
		return false, fmt.Errorf("%w: the store has a checkpoint of %d entries, the signer remembers %d", audit.ErrSignerState, row.Size, state.State.Head.Size)
	}
	last := state.State.Head.Size
	switch {
	case stored.size() < last:
		return false, fmt.Errorf("%w: %d entries, %d were signed", audit.ErrRolledBack, stored.size(), last)
	case last > stored.minIndex():
		hash, there, err := firstOf(snap.Hashes(last-1, last))
		if err != nil {
			return false, err
		}
		if !there || hash != state.State.Head.Hash {
			return false, fmt.Errorf("%w: entry %d is not the one that was signed last", audit.ErrForked, last-1)
		}
	case last > 0 && stored.Prune.HeadHash != state.State.Head.Hash:
		return false, fmt.Errorf("%w: what was pruned last is not what was signed last", audit.ErrForked)
	}
	return found && row.Size == state.State.Head.Size && string(row.Note) == string(state.Note), nil
}

// Begin makes the signer's memory of an empty log. Beside a log with entries a
// missing memory is left missing, which the first Seal reports.
func Begin(ctx context.Context, log *Log, create func(audit.SignerState) error) error {
	state, err := log.memory.Load()
	switch {
	case err == nil && state.Origin != log.origin:
		return fmt.Errorf("the audit log here is called %s, not %s: a log keeps its name, which is the node's urn", state.Origin, log.origin)
	case !isNotExist(err):
		return err
	}
	empty := false
	if err := log.store.ReadAudit(ctx, func(s Snapshot) error {
		stored, err := s.Stored()
		if err != nil {
			return err
		}
		_, sealed, err := s.Newest(math.MaxInt64)
		empty = stored.size() == 0 && !sealed
		return err
	}); err != nil || !empty {
		return err
	}
	return create(audit.NewSignerState(log.origin))
}

// Pruner is the way of a prune into the store; *ledger.Ledger is one.
type Pruner interface {
	// PruneAudit removes a prefix; see [ledger.Ledger.PruneAudit].
	PruneAudit(ctx context.Context, p ledger.Prune) (ledger.Receipt, error)
}

// Prune removes what is older than before, as far as a checkpoint signed by keys
// covers it: a prefix, verified first. It returns how many entries went. policy
// is the reason that the audit.pruned entry states.
func Prune(ctx context.Context, log *Log, keys audit.Keys, write Pruner, before time.Time, policy string) (int64, error) {
	var p *ledger.Prune
	err := log.store.ReadAudit(ctx, func(s Snapshot) error {
		stored, err := s.Stored()
		if err != nil {
			return err
		}
		first, err := firstSince(s, &stored, before)
		if err != nil {
			return err
		}
		seal, found, err := s.Newest(first)
		if err != nil || !found || seal.Size <= stored.minIndex() {
			return err
		}
		verdict, err := audit.Verify(audit.Source{Origin: log.origin, Rows: s.Entries(stored.minIndex(), seal.Size),
			Checkpoints: s.Checkpoints(0, seal.Size)}, audit.Options{Keys: keys, Require: audit.Sealed, Start: startOf(log.origin, &stored)})
		if err != nil {
			return err
		}
		if !verdict.Valid || verdict.SealedThrough != seal.Size {
			return fmt.Errorf("not pruned: %w", &audit.IntegrityError{Verdict: verdict})
		}
		p = &ledger.Prune{Prune: audit.NewPrune(verdict.End, seal.Size, 0), From: stored.minIndex(), Policy: policy}
		return nil
	})
	if err != nil || p == nil {
		return 0, err
	}
	if _, err := write.PruneAudit(ctx, *p); err != nil {
		return 0, err
	}
	return p.MinIndex - p.From, nil
}

// startOf is the trusted state after the last prune, nil if there was none.
func startOf(origin string, stored *Stored) *audit.State {
	p := stored.Prune
	if p == nil || p.MinIndex == 0 {
		return nil
	}
	state := audit.GenesisState(origin)
	state.Head.Size, state.Head.Hash = p.MinIndex, p.HeadHash
	tree, err := audit.NewCompactRange(p.MinIndex, p.CompactRange)
	if err == nil { // else the checkpoint will not fit
		state.Tree = tree
	}
	return &state
}

// firstSince finds the first entry at or after a time by halving: times never go
// back along the log. It goes by the octets.
func firstSince(s Snapshot, stored *Stored, t time.Time) (int64, error) {
	lo, hi := stored.minIndex(), stored.size()
	for lo < hi {
		mid := lo + (hi-lo)/2
		row, found, err := firstOf(s.Entries(mid, mid+1))
		if err != nil {
			return 0, err
		}
		if !found {
			return 0, fmt.Errorf("entry %d is missing; verify the log", mid)
		}
		e, err := audit.ParseEntry(row.Octets)
		if err != nil {
			return 0, err
		}
		if e.Timestamp.Before(t) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}
