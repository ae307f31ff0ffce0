package audit

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// Assurance says how much a valid log has been checked against, from weakest to
// strongest.
type Assurance string

// The levels of assurance.
const (
	None       Assurance = "none"       // nothing was checked
	Chain      Assurance = "chain"      // the entries fit together; all could have been rewritten
	Sealed     Assurance = "sealed"     // the newest checkpoint is signed by a trusted key and fits
	Consistent Assurance = "consistent" // and so does one that the verifier remembered
	Witnessed  Assurance = "witnessed"  // and witnesses have cosigned; not implemented yet
)

var assuranceOrder = [...]Assurance{None, Chain, Sealed, Consistent, Witnessed}

// ParseAssurance reads a level.
func ParseAssurance(s string) (Assurance, error) {
	for _, a := range assuranceOrder {
		if s == string(a) {
			return a, nil
		}
	}
	return "", fmt.Errorf("assurance %q is none of none, chain, sealed, consistent, witnessed", clip(s))
}

// AtLeast tells whether a is b or stronger. The empty level is none.
func (a Assurance) AtLeast(b Assurance) bool { return a.rank() >= b.rank() }

func (a Assurance) rank() int {
	for i, x := range assuranceOrder {
		if a == x {
			return i
		}
	}
	return 0
}

// Verdict is the result of a verification. Its JSON is the answer of the REST
// interface and of the command line.
type Verdict struct {
	Valid     bool      `json:"valid"`
	Assurance Assurance `json:"assurance"`
	// FirstBadSeq is the smallest seq where the log provably differs from a
	// valid one; nil if it is valid, or what is wrong has no place in it.
	FirstBadSeq *int64 `json:"first_bad_seq"`
	// Reason is what is wrong at FirstBadSeq; "" (null in JSON) is nothing.
	Reason         Reason `json:"reason"`
	EntriesChecked int64  `json:"entries_checked"`
	Size           int64  `json:"size"`      // entries the log was found to have, pruned ones included
	MinIndex       int64  `json:"min_index"` // seq of the first entry that was not pruned
	// SealedThrough is the size of the newest checkpoint that a trusted key has
	// signed and that fits, and UnsealedTail the number of entries after it.
	SealedThrough int64  `json:"sealed_through"`
	UnsealedTail  int64  `json:"unsealed_tail"`
	HeadHash      string `json:"head_hash"` // of the last entry, hexadecimal
	RootHash      string `json:"root_hash"` // of the tree, base64; "" if it could not be computed
	Guards        Guards `json:"guards"`
	// Reconciliation is the comparison with the business tables, a JSON object
	// that the caller fills in; null if none was made.
	Reconciliation jsontext.Value `json:"reconciliation"`

	// Message is the reason in words, for people.
	Message string `json:"-"`
	// End is where a later verification can go on, if this one is trusted.
	End State `json:"-"`
}

// Guards are the triggers of a store that keep honest mistakes away from the log.
type Guards struct {
	// Missing names those that are gone or disabled. It is a warning: the
	// entries are proven by their hashes, not by guards.
	Missing []string `json:"missing"`
}

// State is a point in the log that can be continued from: its head there and
// the tree so far.
type State struct {
	Head Head
	Tree CompactRange // of Head.Size leaves; the zero range if that is unknown
}

// GenesisState is the state of the empty log named origin.
func GenesisState(origin string) State { return State{Head: GenesisHead(origin)} }
