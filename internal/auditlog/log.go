package auditlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/asap-protocol/asap-go/audit"
)

// ErrRange reports a question about entries or sizes that the log does not have.
var ErrRange = errors.New("outside the log")

// ErrUnusable reports an option of a verification that cannot be used: a
// checkpoint that is none, or is signed by nobody who is trusted.
var ErrUnusable = errors.New("unusable option of a verification")

// Log answers questions about a stored log. It is safe for concurrent use.
type Log struct {
	store  Store
	origin string
	vkey   string
	memory Memory
}

// Memory is what the signer of the log remembers.
type Memory interface {
	// Load returns the state; an error that is fs.ErrNotExist means that there is
	// none.
	Load() (audit.SignerState, error)
	// Swap replaces old by next, durably, or returns why not; see
	// [audit.SignerFile.Swap].
	Swap(old, next audit.SignerState) error
}

// New returns the log named origin in store. vkey is its verifier key, "" if it
// is not known. memory is what its signer remembers; nil if that cannot be seen.
func New(store Store, origin, vkey string, memory Memory) *Log {
	return &Log{store: store, origin: origin, vkey: vkey, memory: memory}
}

// Origin is the name of the log.
func (l *Log) Origin() string { return l.origin }

// VKey is the log's verifier key, "" if it is not known.
func (l *Log) VKey() string { return l.vkey }

// Check says what a verification is to look at. The zero value is the whole log
// without a pinned key.
type Check struct {
	// Keys, Remembered, Require, MinSize, MaxUnsealed and Receipt are those of
	// [audit.Options].
	Keys        audit.Keys
	Remembered  [][]byte
	Require     audit.Assurance
	MinSize     int64
	MaxUnsealed *int64
	Receipt     *audit.Receipt
	// From and To restrict to the entries From <= seq < To; To is 0 for the end.
	// The range is extended to the next checkpoint, which proves it.
	From, To int64
	// Reconcile compares the log with the tables it describes as well. It needs
	// the whole log.
	Reconcile bool
	// Progress, if not nil, is told how many of how many entries were checked.
	Progress func(checked, total int64)
}

// options are those of package audit.
func (c *Check) options(total int64) audit.Options {
	o := audit.Options{Keys: c.Keys, Remembered: c.Remembered, Require: c.Require, MinSize: c.MinSize, MaxUnsealed: c.MaxUnsealed, Receipt: c.Receipt}
	if c.Progress != nil {
		o.Progress = func(checked int64) { c.Progress(checked, total) }
	}
	return o
}

// Verify checks the log in one consistent state and constant memory. What is
// wrong with it is in the verdict; the error says that the verification could
// not run, or (ErrRange, ErrUnusable) was not asked for sensibly.
func (l *Log) Verify(ctx context.Context, c Check) (verdict audit.Verdict, err error) {
	if c.From < 0 || c.To < 0 || c.To > 0 && c.To <= c.From {
		return verdict, fmt.Errorf("%w: entries %d to %d", ErrRange, c.From, c.To)
	}
	for _, note := range c.Remembered {
		_, err := audit.ParseCheckpoint(note)
		if err == nil && !c.Keys.Empty() {
			_, err = c.Keys.Open(note)
		}
		if err != nil {
			return verdict, fmt.Errorf("%w: remembered checkpoint: %w", ErrUnusable, err)
		}
	}
	// Before the snapshot: what is signed now is in every later state.
	signer, err := l.signer()
	if err != nil {
		return verdict, err
	}
	err = l.store.ReadAudit(ctx, func(s Snapshot) (err error) {
		verdict, err = l.verify(s, c, signer)
		return err
	})
	if err != nil {
		return audit.Verdict{}, fmt.Errorf("verify the audit log: %w", err)
	}
	return verdict, nil
}

func (l *Log) verify(s Snapshot, c Check, signer *audit.SignerState) (audit.Verdict, error) {
	stored, err := s.Stored()
	if err != nil {
		return audit.Verdict{}, err
	}
	whole := c.From <= stored.minIndex() && (c.To == 0 || c.To >= stored.size())
	if !whole {
		return l.verifyRange(s, c, stored)
	}
	o := c.options(stored.size() - stored.minIndex())
	o.Signer = signer
	rows := s.Entries(stored.minIndex(), math.MaxInt64)
	var r *reconciliation
	if c.Reconcile {
		r = newReconciliation(s.Books(), stored.minIndex())
		rows = r.watch(rows)
	}
	verdict, err := audit.Verify(l.source(s, stored, rows), o)
	if err != nil || r == nil {
		return verdict, err
	}
	return verdict, r.conclude(&verdict)
}

// source is the log from its first entry on.
func (l *Log) source(s Snapshot, stored Stored, rows iter.Seq2[audit.Row, error]) audit.Source {
	head := stored.Head
	if head == nil {
		head = &audit.HeadRow{Hash: audit.GenesisHash(l.origin)}
	}
	return audit.Source{Origin: l.origin, Rows: rows, Checkpoints: s.Checkpoints(0, math.MaxInt64), Head: head, Prune: stored.Prune,
		Nodes: s.Nodes, GuardsMissing: stored.GuardsMissing}
}

// verifyRange checks a part of the log. The tree before it is made of the stored
// hashes: if the checkpoint at its end fits, they are the ones that were signed.
func (l *Log) verifyRange(s Snapshot, c Check, stored Stored) (audit.Verdict, error) {
	first, size := stored.minIndex(), stored.size()
	from := max(c.From, first)
	to := c.To
	if to == 0 || to > size {
		to = size
	}
	if from >= to {
		return audit.Verdict{}, fmt.Errorf("%w: it has entries %d to %d", ErrRange, first, size-1)
	}
	next, found, err := firstOf(s.Checkpoints(to, size))
	if err != nil {
		return audit.Verdict{}, err
	}
	if found {
		to = next.Size
	}
	verdict, err := l.verifySpan(s, c, stored, from, to, newTree(s, &stored))
	if err == nil && verdict.Reason == audit.CheckpointMismatch {
		// Perhaps because of a node, which is an index only.
		verdict, err = l.verifySpan(s, c, stored, from, to, newTree(s, &stored).withoutNodes())
	}
	return verdict, err
}

func (l *Log) verifySpan(s Snapshot, c Check, stored Stored, from, to int64, tree *tree) (audit.Verdict, error) {
	start, err := l.stateAt(s, stored, from, tree)
	if err != nil {
		return audit.Verdict{}, err
	}
	o := c.options(to - from)
	o.Start, o.Remembered, o.MinSize, o.MaxUnsealed = &start, nil, 0, nil
	for _, note := range c.Remembered { // others lie outside
		if k, err := audit.ParseCheckpoint(note); err == nil && k.Size >= from && k.Size <= to {
			o.Remembered = append(o.Remembered, note)
		}
	}
	src := audit.Source{Origin: l.origin, Rows: s.Entries(from, to), Checkpoints: s.Checkpoints(from, to), Nodes: s.Nodes, GuardsMissing: stored.GuardsMissing}
	verdict, err := audit.Verify(src, o)
	if err == nil && verdict.Valid && verdict.Size < to { // nothing that follows tells it
		verdict.Valid, verdict.Assurance, verdict.Reason = false, audit.None, audit.Truncated
		verdict.FirstBadSeq, verdict.Message = &verdict.Size, fmt.Sprintf("the log should have %d entries", stored.size())
	}
	verdict.MinIndex = stored.minIndex()
	return verdict, err
}

// stateAt is the state of the log before the entry from, as far as the stored
// rows tell it. A row that cannot be read leaves parts of it unknown.
func (l *Log) stateAt(s Snapshot, stored Stored, from int64, tree *tree) (audit.State, error) {
	state := audit.GenesisState(l.origin)
	if p := stored.Prune; p != nil {
		tree, err := audit.NewCompactRange(p.MinIndex, p.CompactRange)
		if err == nil {
			state.Tree = tree
		}
		state.Head.Size, state.Head.Hash = p.MinIndex, p.HeadHash
	}
	if from <= state.Head.Size {
		return state, nil
	}
	before, err := tree.compactRange(from)
	switch {
	case err == nil:
		state.Tree = before
	case !errors.Is(err, errHole):
		return state, err
	}
	last, found, err := firstOf(s.Entries(from-1, from))
	if err != nil {
		return state, err
	}
	state.Head.Size = from
	if found {
		copy(state.Head.Hash[:], last.Hash)
		if e, err := audit.ParseEntry(last.Octets); err == nil {
			state.Head.TimestampUS, state.Head.LastID = e.Timestamp.UnixMicro(), e.ID
		}
	}
	return state, nil
}

// signer returns what the signer remembers, nil if nothing.
func (l *Log) signer() (*audit.SignerState, error) {
	if l.memory == nil {
		return nil, nil
	}
	state, err := l.memory.Load()
	switch {
	case isNotExist(err):
		return nil, nil
	case err != nil:
		return nil, err
	case state.Origin != l.origin:
		return nil, fmt.Errorf("the signer's memory is of the log %s, this is %s", state.Origin, l.origin)
	}
	return &state, nil
}

// firstOf returns the first element of a sequence.
func firstOf[T any](all iter.Seq2[T, error]) (v T, found bool, err error) {
	for v, err := range all {
		return v, err == nil, err
	}
	return v, false, nil
}
