package audit

import (
	"errors"
	"fmt"
	"iter"
	"slices"
)

// Row is one stored entry as it was found, to be checked. Its slices may be
// used again as soon as the next row is asked for.
type Row struct {
	Seq     int64    // where it was found: the key column
	Octets  []byte   // stored preimage
	Hash    []byte   // stored hash, 32 bytes
	Columns *Columns // what the index columns say; nil if the source has none
}

// Columns are the parts of an entry that a database keeps beside its octets, to
// find it by. They are checked because queries go by them.
type Columns struct {
	ID          string
	TimestampUS int64
	EventType   string
	Actor       string
	Subject     string
}

// CheckpointRow is a stored checkpoint: a signed note and what is indexed of it.
type CheckpointRow struct {
	Size int64
	Root Hash
	Note []byte
}

// HeadRow is what a store says its last entry is.
type HeadRow struct {
	Size int64 // number of entries ever appended; seq of the last one plus 1
	Hash [32]byte
}

// Source is a stored log, read in one snapshot. It needs no trust.
type Source struct {
	Origin string // name of the log
	// Rows are the entries in the order of their key, from Start or MinIndex on.
	Rows iter.Seq2[Row, error]
	// Checkpoints are all stored ones, sizes not falling; nil is none.
	Checkpoints iter.Seq2[CheckpointRow, error]
	Head        *HeadRow // nil if the source has no head row
	Prune       *Prune   // the latest prune; nil if the log was never pruned
	// Nodes yields the stored tree nodes of a level with from <= Position < to, in
	// ascending Position; nil if the source has none. One that is stored must be
	// the tree's.
	Nodes func(level int, from, to int64) iter.Seq2[TreeNode, error]
	// GuardsMissing names guards of the store that are gone.
	GuardsMissing []string
}

// Options say what a verifier brings along. None of it comes from the log.
type Options struct {
	// Keys are the pinned verifier keys. Without any the assurance is at most
	// Chain.
	Keys Keys
	// Origin, if not empty, is what the log must be called.
	Origin string
	// Remembered are signed checkpoints seen earlier. Each must be a prefix of
	// the log.
	Remembered [][]byte
	// Signer is what the signer of the log remembers, if the verifier can see
	// that. It can only find faults; it does not raise the assurance.
	Signer *SignerState
	// Require is the least assurance that is valid; "" is Sealed if keys are
	// pinned, else None.
	Require Assurance
	// MinSize is the least number of entries the log must have.
	MinSize int64
	// MaxUnsealed, if not nil, is the longest unsealed tail allowed.
	MaxUnsealed *int64
	// Start, if not nil, is a state that is trusted; the source's rows begin
	// there. Checkpoints of smaller sizes are not compared.
	Start *State
	// Receipt, if not nil, must be in the log.
	Receipt *Receipt
	// Progress, if not nil, is called every 10,000 entries with the number
	// checked so far.
	Progress func(checked int64)
}

// Verify checks a stored log in one pass and constant memory. What is wrong
// with the log is in the verdict; the error is that the verification could not
// run: a source failed, or an option is unusable.
func Verify(src Source, o Options) (Verdict, error) {
	v, err := newVerifier(o)
	if err != nil {
		return Verdict{}, err
	}
	if err := v.begin(src.Origin, src.Prune); err != nil {
		return Verdict{}, err
	}
	if src.Checkpoints != nil {
		next, stop := iter.Pull2(src.Checkpoints)
		defer stop()
		v.pull = func() (CheckpointRow, bool, error) {
			row, err, ok := next()
			return row, ok, err
		}
	}
	v.nodes = src.Nodes
	if src.Rows != nil {
		for row, err := range src.Rows {
			if err != nil {
				return Verdict{}, fmt.Errorf("read entry %d: %w", v.next, err)
			}
			if err := v.addRow(&row); err != nil {
				return Verdict{}, err
			}
			if v.nodesErr != nil {
				return Verdict{}, fmt.Errorf("read tree nodes: %w", v.nodesErr)
			}
		}
	}
	if err := v.drain(); err != nil {
		return Verdict{}, err
	}
	if src.Head != nil {
		v.checkHead(*src.Head)
	}
	verdict := v.verdict()
	verdict.Guards.Missing = append(verdict.Guards.Missing, src.GuardsMissing...)
	return verdict, nil
}

// finding is one thing that is wrong.
type finding struct {
	reason  Reason // "" is none
	seq     int64  // -1 has no place
	message string
}

// A verifier holds the state between two entries. It keeps the finding with the
// smallest seq and goes on after each.
type verifier struct {
	o          Options
	remembered []memory // sorted by size
	selfKeys   Keys     // the key an export names itself, if none is pinned

	origin   string
	min      int64 // seq of the first entry there should be
	next     int64 // seq of the next entry
	checked  int64
	previous [64]byte // what the next previous_hash must be, hexadecimal
	linked   bool     // previous is known
	lastID   [26]byte
	hasLast  bool
	lastUS   int64
	tree     CompactRange
	broken   bool // the tree is not known any more
	prune    *Prune
	pruneOK  bool  // the entry that records prune was seen
	firstGap int64 // seq of the first entry after a gap from 0, else -1
	prunedTo int64 // largest "to" of an audit.pruned entry

	pull      func() (CheckpointRow, bool, error) // next stored checkpoint
	pending   *CheckpointRow
	lastSize  int64 // of the checkpoint before; sizes must not fall
	newest    int64 // size of the newest stored checkpoint, -1 if there is none
	sealed    int64 // size of the newest stored one that fits and is signed by a pinned key, -1
	agreed    int64 // size of the newest one from anywhere that fits
	mismatch  int64 // size of the first that does not, -1
	disagreed finding
	recalled  bool // a remembered one fits
	receipt   bool // the receipt was found
	best      finding
	soft      finding

	nodes     func(level int, from, to int64) iter.Seq2[TreeNode, error]
	nodePages map[int]*nodePage // by level
	nodesErr  error
	stale     finding // a stored node is not the tree's

	f fields
}

// memory is a checkpoint from outside the log.
type memory struct {
	Checkpoint
	signer bool
}

func newVerifier(o Options) (*verifier, error) {
	v := &verifier{o: o, newest: -1, sealed: -1, mismatch: -1, firstGap: -1, prunedTo: -1}
	for i, signed := range o.Remembered {
		c, err := ParseCheckpoint(signed)
		if err == nil && !o.Keys.Empty() {
			c, err = o.Keys.Open(signed)
		}
		if err != nil {
			return nil, fmt.Errorf("remembered checkpoint %d: %w", i+1, err)
		}
		v.remembered = append(v.remembered, memory{Checkpoint: c})
	}
	if o.Signer != nil && len(o.Signer.Note) > 0 {
		c, err := ParseCheckpoint(o.Signer.Note)
		if err != nil {
			return nil, fmt.Errorf("signer state: %w", err)
		}
		v.remembered = append(v.remembered, memory{Checkpoint: c, signer: true})
	}
	slices.SortStableFunc(v.remembered, func(a, b memory) int { return int(min(max(a.Size-b.Size, -1), 1)) })
	return v, nil
}

// begin sets the point from which entries are checked.
func (v *verifier) begin(origin string, prune *Prune) error {
	v.origin = origin
	if v.o.Origin != "" && v.o.Origin != origin {
		v.report(GenesisMismatch, 0, "the log is called "+clip(origin)+", not "+v.o.Origin)
	}
	genesis := GenesisHash(origin)
	v.setPrevious(&genesis)
	v.prune = prune
	if prune != nil {
		v.min = prune.MinIndex
	}
	switch {
	case v.o.Start != nil:
		s := v.o.Start
		v.next, v.lastUS = s.Head.Size, s.Head.TimestampUS
		v.setPrevious(&s.Head.Hash)
		if s.Head.LastID != "" {
			v.hasLast = copy(v.lastID[:], s.Head.LastID) == len(v.lastID)
		}
		v.tree = s.Tree.clone()
		v.broken = s.Tree.size != v.next
		v.pruneOK = true // its entry may lie before the start
	case prune != nil && prune.MinIndex > 0:
		v.next = prune.MinIndex
		v.setPrevious(&prune.HeadHash)
		tree, err := NewCompactRange(prune.MinIndex, prune.CompactRange)
		if err != nil {
			v.report(PruneInvalid, prune.MinIndex, err.Error())
			v.broken = true
		}
		v.tree = tree
	default:
		v.pruneOK = true
		if prune != nil && prune.MinIndex < 0 {
			return errors.New("negative minimum index")
		}
	}
	v.agreed, v.lastSize = v.next, 0
	if v.min == 0 && v.o.Start == nil {
		v.agreed = 0
	}
	return nil
}

func (v *verifier) setPrevious(h *[32]byte) {
	encodeHex(&v.previous, h)
	v.linked = true
}

// report keeps the finding if it is the first with the smallest seq.
func (v *verifier) report(r Reason, seq int64, message string) {
	if v.best.reason == "" || seq < v.best.seq {
		v.best = finding{r, seq, message}
	}
}

// complain keeps a finding without a place, the first.
func (v *verifier) complain(r Reason, message string) {
	if v.soft.reason == "" {
		v.soft = finding{r, -1, message}
	}
}
