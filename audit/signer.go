package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"iter"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"
)

// SignerState is the memory of whoever signs checkpoints. It must live outside
// the database: it is what notices that a database was replaced by an older
// copy. It only moves forward; see [SignerState.Allows].
type SignerState struct {
	Origin string
	State  State // what was signed last
	// Note is the checkpoint signed last; empty before the first. A crash can
	// come between its signing and its storing: on start, store it if the
	// database does not have it.
	Note []byte
	// StoredSize is the size of the checkpoint signed before Note, which was
	// stored before Note was signed; 0 if there was none.
	StoredSize int64
}

// NewSignerState is the state of a signer of an empty log. Creating one for a
// log that has entries forgets what was signed: it is the operator's decision,
// never a fallback.
func NewSignerState(origin string) SignerState {
	return SignerState{Origin: origin, State: GenesisState(origin)}
}

var (
	// ErrRolledBack reports a log shorter than what was signed.
	ErrRolledBack = errors.New("the log is shorter than what was signed")
	// ErrForked reports a log with another history than what was signed.
	ErrForked = errors.New("the log has another history than what was signed")
)

// Allows is the rule of transition: next is of the same log and not smaller,
// and of the same size only with the same tree. That a larger tree continues
// the smaller one is ensured by [Seal], which extends it. Errors wrap
// ErrRolledBack or ErrForked.
func (s SignerState) Allows(next SignerState) error {
	switch {
	case s.Origin != next.Origin:
		return fmt.Errorf("%w: it is called %s, not %s", ErrForked, next.Origin, s.Origin)
	case next.State.Head.Size < s.State.Head.Size:
		return fmt.Errorf("%w: %d entries, %d were signed", ErrRolledBack, next.State.Head.Size, s.State.Head.Size)
	case next.State.Head.Size == s.State.Head.Size && next.State.Tree.Root() != s.State.Tree.Root():
		return fmt.Errorf("%w: two trees of %d entries", ErrForked, s.State.Head.Size)
	}
	return nil
}

// IntegrityError says that a log may not be signed, and why.
type IntegrityError struct{ Verdict Verdict }

// Error implements error.
func (e *IntegrityError) Error() string {
	at := ""
	if e.Verdict.FirstBadSeq != nil {
		at = fmt.Sprintf(" at entry %d", *e.Verdict.FirstBadSeq)
	}
	return "audit log is not intact: " + string(e.Verdict.Reason) + at + ": " + e.Verdict.Message
}

// Seal reads the entries that came since s was signed, checks them strictly,
// extends the tree and signs the checkpoint, which is in the Note of the
// result. rows begin at s.State.Head.Size; head is the head row read in the
// same snapshot. The caller then replaces s by the result in the signer's
// memory (compare and swap), and after that stores the note. No new entry gives
// a checkpoint of the same size. An *IntegrityError means: do not sign, do not
// repair, tell somebody.
func Seal(s SignerState, rows iter.Seq2[Row, error], head HeadRow, signers ...note.Signer) (SignerState, error) {
	if head.Size < s.State.Head.Size {
		return s, fmt.Errorf("%w: %d entries, %d were signed", ErrRolledBack, head.Size, s.State.Head.Size)
	}
	verdict, err := Verify(Source{Origin: s.Origin, Rows: rows, Head: &head}, Options{Start: &s.State, Require: None})
	if err != nil {
		return s, err
	}
	if !verdict.Valid {
		return s, &IntegrityError{verdict}
	}
	next := SignerState{Origin: s.Origin, State: verdict.End, StoredSize: s.StoredSize}
	if len(s.Note) > 0 {
		next.StoredSize = s.State.Head.Size
	}
	c := Checkpoint{Origin: s.Origin, Size: verdict.End.Tree.Size(), Root: verdict.End.Tree.Root()}
	if next.Note, err = c.Sign(signers...); err != nil {
		return s, fmt.Errorf("sign checkpoint: %w", err)
	}
	return next, s.Allows(next)
}

// signerFile is the JSON of a SignerState.
type signerFile struct {
	Origin      string `json:"origin"`
	Size        int64  `json:"size"`
	Root        Hash   `json:"root"`
	HeadHash    string `json:"head_hash"`
	TimestampUS int64  `json:"timestamp_us"`
	LastID      string `json:"last_id"`
	Range       []Hash `json:"compact_range"`
	StoredSize  int64  `json:"stored_size"`
	Note        string `json:"note"`
}

// MarshalJSON writes the state as the object that docs/audit-format.md shows.
func (s SignerState) MarshalJSON() ([]byte, error) {
	return json.Marshal(signerFile{
		Origin:      s.Origin,
		Size:        s.State.Head.Size,
		Root:        s.State.Tree.Root(),
		HeadHash:    hex.EncodeToString(s.State.Head.Hash[:]),
		TimestampUS: s.State.Head.TimestampUS,
		LastID:      s.State.Head.LastID,
		Range:       s.State.Tree.Hashes(),
		StoredSize:  s.StoredSize,
		Note:        string(s.Note),
	})
}

// UnmarshalJSON reads what MarshalJSON writes and refuses a state that
// contradicts itself.
func (s *SignerState) UnmarshalJSON(b []byte) error {
	var f signerFile
	if err := json.Unmarshal(b, &f, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("signer state: %w", err)
	}
	tree, err := NewCompactRange(f.Size, f.Range)
	if err != nil {
		return fmt.Errorf("signer state: %w", err)
	}
	hash, err := hex.DecodeString(f.HeadHash)
	if err != nil || len(hash) != 32 {
		return errors.New("signer state: head_hash is not 64 hexadecimal digits")
	}
	if tree.Root() != f.Root {
		return errors.New("signer state: root is not that of compact_range")
	}
	out := SignerState{
		Origin:     f.Origin,
		State:      State{Head: Head{Size: f.Size, Hash: [32]byte(hash), TimestampUS: f.TimestampUS, LastID: f.LastID}, Tree: tree},
		StoredSize: f.StoredSize,
	}
	if f.Note != "" {
		out.Note = []byte(f.Note)
		c, err := ParseCheckpoint(out.Note)
		if err != nil {
			return fmt.Errorf("signer state: %w", err)
		}
		if c.Origin != f.Origin || c.Size != f.Size || c.Root != f.Root {
			return errors.New("signer state: note is not of this state")
		}
	}
	*s = out
	return nil
}
