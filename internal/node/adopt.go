package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// AdoptOptions are what an adoption is checked against besides the node's key.
type AdoptOptions struct {
	Remembered [][]byte        // checkpoints kept from before
	Require    audit.Assurance // the least that will do; "" for sealed
}

// Adopted is what was adopted.
type Adopted struct {
	Size    int64  `json:"size"` // of the newest stored checkpoint, from which the signer goes on
	Root    string `json:"root"`
	Entries int64  `json:"entries"` // that were verified
}

var (
	// ErrNothingToAdopt reports that the signer's memory is there.
	ErrNothingToAdopt = errors.New("nothing to adopt")
	// ErrCheckpoint reports a remembered checkpoint that is none.
	ErrCheckpoint = errors.New("not a checkpoint of this log")
)

// AdoptAudit makes a new memory for the signer of a stopped node's audit log,
// after it has verified all of it by the node's key and against remembered
// checkpoints. It is the operator's decision, and an entry of the log; nothing is
// written if the log does not verify. Errors are ErrInUse while a node serves,
// ErrNothingToAdopt, ErrCheckpoint, or an *audit.IntegrityError.
func AdoptAudit(ctx context.Context, config Config, o AdoptOptions, now func() time.Time) (Adopted, error) {
	check := auditlog.Check{Remembered: o.Remembered, Require: cmp.Or(o.Require, audit.Sealed)}
	a, err := adoptAudit(ctx, config, check, now)
	switch {
	case errors.Is(err, auditlog.ErrMemoryPresent):
		return Adopted{}, fmt.Errorf("%w: %w", ErrNothingToAdopt, err)
	case errors.Is(err, auditlog.ErrUnusable):
		return Adopted{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	case err != nil:
		return Adopted{}, err
	}
	return Adopted{a.Size, a.Root.String(), a.Entries}, nil
}

func adoptAudit(ctx context.Context, config Config, check auditlog.Check, now func() time.Time) (a auditlog.Adoption, err error) {
	at, err := config.storePlace()
	if err != nil {
		return a, err
	}
	if at.memory() {
		return a, fmt.Errorf("%w: a store in memory has nothing to adopt", ErrConfig)
	}
	if at.file != "" {
		if _, err := os.Stat(at.file); err != nil {
			return a, fmt.Errorf("open the ledger: %w", err)
		}
	}
	key, err := config.key(true)
	if err != nil {
		return a, err
	}
	vkey, err := audit.FormatVKey(config.URN, key.Public().(ed25519.PublicKey))
	if err != nil {
		return a, fmt.Errorf("%w: urn: %w", ErrConfig, err)
	}
	if check.Keys, err = audit.ParseKeys(vkey); err != nil {
		return a, err
	}
	store, err := at.open(ctx, &config, now)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	memory := audit.NewSignerFile(filepath.Join(config.Data, SignerFile))
	if a, err = auditlog.Adopt(ctx, auditlog.New(store, config.URN, vkey, memory), check); err != nil {
		return a, err
	}
	event, err := a.Event(config.URN)
	if err != nil {
		return a, err
	}
	// First the entry: a memory without one would be an adoption that nobody sees.
	if err := appendOffline(ctx, config, store, now, event); err != nil {
		return a, err
	}
	return a, a.Remember(memory.Create)
}

// appendOffline writes an entry where no node is running. What the last run left
// behind is settled as at any start.
func appendOffline(ctx context.Context, config Config, store Store, now func() time.Time, event audit.Event) error {
	ids := asap.NewIDSource()
	l, err := ledger.Open(ctx, store, ledger.Options{Origin: config.URN, Operator: asap.AgentURN(config.URN), Now: now,
		LostAnswer: func(t *ledger.Task) []byte { return lostAnswer(t, ids, now()) }})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- l.Run(run) }()
	_, err = l.Append(ctx, event)
	stop()
	return errors.Join(err, <-done)
}
