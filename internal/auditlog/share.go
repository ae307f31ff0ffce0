package auditlog

import (
	"context"
	"fmt"
	"math"

	"github.com/asap-protocol/asap-go/audit"
)

// Share makes the sealer one of several that sign the same log with the same key,
// one at a time, each with a memory of its own. What another has signed since it
// goes on from, after it has verified that as a stranger would: from where it
// remembers to the newest note, by keys. One that remembers nothing begins at the
// beginning, with create. It is called before the first Seal.
func (s *Sealer) Share(keys audit.Keys, create func(audit.SignerState) error) {
	s.keys, s.create = keys, create
}

// catchUp brings the memory up to the newest note that another has signed.
func (s *Sealer) catchUp(ctx context.Context) error {
	if s.create == nil {
		return nil
	}
	state, err := s.log.memory.Load()
	missing := isNotExist(err)
	if missing {
		state, err = audit.NewSignerState(s.log.origin), nil
	}
	if err != nil {
		return err
	}
	next := state
	err = s.log.store.ReadAudit(ctx, func(snap Snapshot) error {
		stored, err := snap.Stored()
		if err != nil {
			return err
		}
		newest, found, err := snap.Newest(math.MaxInt64)
		if err != nil || !found || newest.Size <= state.State.Head.Size {
			return err
		}
		start, from := &state.State, state.State.Head.Size
		if from < stored.minIndex() { // what it remembers was pruned
			start, from = startOf(s.log.origin, &stored), stored.minIndex()
		}
		verdict, err := audit.Verify(audit.Source{Origin: s.log.origin, Rows: snap.Entries(from, newest.Size), Checkpoints: snap.Checkpoints(newest.Size, newest.Size)},
			audit.Options{Keys: s.keys, Require: audit.Sealed, Start: start})
		if err != nil {
			return err
		}
		if !verdict.Valid || verdict.SealedThrough != newest.Size {
			return fmt.Errorf("what another node has signed: %w", &audit.IntegrityError{Verdict: verdict})
		}
		next.State, next.Note = verdict.End, newest.Note
		return nil
	})
	switch {
	case err != nil:
		return err
	case missing:
		err = s.create(next)
	case next.State.Head.Size != state.State.Head.Size:
		err = s.log.memory.Swap(state, next)
	default:
		return nil
	}
	if err == nil && len(next.Note) > 0 {
		s.stored = true
		s.sealed.Store(next.State.Head.Size)
	}
	return err
}
