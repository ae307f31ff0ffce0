package auditlog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/audit"
)

// ErrMemoryPresent reports a log whose signer remembers it: there is nothing to
// adopt.
var ErrMemoryPresent = errors.New("the signer's memory of this log is there")

// Adoption is what an operator takes as signed who has lost the signer's memory.
// It is what a verification of the whole log found; what was cut off before it is
// not seen, but by checkpoints that others keep.
type Adoption struct {
	// Size and Root are those of the newest stored checkpoint, 0 without one: the
	// signer goes on from there.
	Size int64
	Root audit.Hash
	// Entries is how many the log has, Head the hash of the last one.
	Entries int64
	Head    [32]byte
	// Remembered is how many checkpoints from outside the log were compared.
	Remembered int
	state      audit.SignerState
}

// Adopt verifies the whole log, with the checkpoints that the check brings along,
// and prepares a new memory for its signer. It writes nothing: the entry of
// [Adoption.Event] has to be durable before [Adoption.Remember]. A log that does
// not verify is an *audit.IntegrityError, one that has a memory ErrMemoryPresent.
func Adopt(ctx context.Context, log *Log, c Check) (a Adoption, err error) {
	switch _, err := log.memory.Load(); {
	case err == nil:
		return a, ErrMemoryPresent
	case !isNotExist(err):
		return a, err
	}
	verdict, err := log.Verify(ctx, Check{Keys: c.Keys, Remembered: c.Remembered, Require: c.Require, Progress: c.Progress})
	if err != nil {
		return a, err
	}
	if !verdict.Valid {
		return a, fmt.Errorf("not adopted: %w", &audit.IntegrityError{Verdict: verdict})
	}
	a = Adoption{Entries: verdict.Size, Head: verdict.End.Head.Hash, Remembered: len(c.Remembered), state: audit.NewSignerState(log.origin)}
	a.Root = a.state.State.Tree.Root()
	err = log.store.ReadAudit(ctx, func(s Snapshot) error {
		stored, err := s.Stored()
		if err != nil {
			return err
		}
		newest, found, err := s.Newest(math.MaxInt64)
		if err != nil || !found {
			return err
		}
		upTo, err := audit.Verify(audit.Source{Origin: log.origin, Rows: s.Entries(stored.minIndex(), newest.Size), Checkpoints: s.Checkpoints(newest.Size, newest.Size)}, audit.Options{Keys: c.Keys, Require: audit.Sealed, Start: startOf(log.origin, &stored)})
		if err != nil {
			return err
		}
		if !upTo.Valid {
			return fmt.Errorf("not adopted: %w", &audit.IntegrityError{Verdict: upTo})
		}
		a.Size, a.Root = newest.Size, newest.Root
		a.state.State, a.state.Note = upTo.End, newest.Note
		return nil
	})
	if err != nil {
		return Adoption{}, fmt.Errorf("adopt the audit log: %w", err)
	}
	return a, nil
}

// SignerAdopted is the entry of an adoption.
const SignerAdopted = "audit.signer_adopted"

// Event is the entry that tells of the adoption.
func (a *Adoption) Event(actor string) (audit.Event, error) {
	details, err := json.Marshal(map[string]any{"size": a.Size, "root": a.Root.String(), "entries": a.Entries,
		"head_hash": hex.EncodeToString(a.Head[:]), "remembered_checkpoints": a.Remembered}, json.Deterministic(true))
	return audit.Event{Type: SignerAdopted, Actor: actor, Subject: "audit", Details: details}, err
}

// Remember writes the new memory.
func (a *Adoption) Remember(create func(audit.SignerState) error) error { return create(a.state) }

// MemoryMissing tells whether the log has entries or checkpoints while its signer
// remembers nothing, and how many entries.
func MemoryMissing(ctx context.Context, log *Log) (missing bool, entries int64, err error) {
	if log.memory == nil {
		return false, 0, nil
	}
	if _, err := log.memory.Load(); !isNotExist(err) {
		return false, 0, err
	}
	err = log.store.ReadAudit(ctx, func(s Snapshot) error {
		stored, err := s.Stored()
		if err != nil {
			return err
		}
		_, sealed, err := s.Newest(math.MaxInt64)
		entries = stored.size()
		missing = entries > 0 || sealed
		return err
	})
	return missing, entries, err
}
