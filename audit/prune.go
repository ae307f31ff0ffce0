package audit

import (
	"encoding/hex"

	"github.com/go-json-experiment/json/jsontext"
)

// Prune is what remains of a removed prefix: enough to go on proving the rest.
type Prune struct {
	MinIndex       int64    // seq of the first entry that is kept
	HeadHash       [32]byte // hash of the last entry that was removed
	CompactRange   []Hash   // of the tree of MinIndex leaves
	CheckpointSize int64    // size of the signed checkpoint that covers the prefix
	AtUS           int64    // when, Unix microseconds
}

// NewPrune describes the removal of all entries before state, which must be the
// verified state at a size that a checkpoint covers.
func NewPrune(state State, checkpointSize, atUS int64) Prune {
	return Prune{
		MinIndex:       state.Head.Size,
		HeadHash:       state.Head.Hash,
		CompactRange:   state.Tree.Hashes(),
		CheckpointSize: checkpointSize,
		AtUS:           atUS,
	}
}

func (p *Prune) root() Hash {
	r := CompactRange{size: p.MinIndex, nodes: p.CompactRange}
	return r.Root()
}

// pruneDetails are the members of an audit.pruned entry that are verified.
type pruneDetails struct {
	From     int64  `json:"from"`
	To       int64  `json:"to"`
	Root     string `json:"root"`
	HeadHash string `json:"head_hash"`
}

// Event is the audit.pruned entry that has to be appended in the transaction
// that removes the entries. from is the minimum index before; policy says why,
// and archive is the SHA-256 of an archived export in hexadecimal, or "".
// Verification of what remains demands this entry.
func (p Prune) Event(actor, subject string, from int64, policy, archive string) Event {
	b := append([]byte(`{"archive":`), quote(archive)...)
	b = append(b, `,"from":`...)
	b = jsontext.AppendFloat(b, float64(from), 64)
	b = append(b, `,"head_hash":"`...)
	b = append(b, hex.EncodeToString(p.HeadHash[:])...)
	b = append(b, `","policy":`...)
	b = append(b, quote(policy)...)
	root := p.root()
	b = append(b, `,"root":"`...)
	b = append(b, root.String()...)
	b = append(b, `","to":`...)
	b = jsontext.AppendFloat(b, float64(p.MinIndex), 64)
	return Event{Type: AuditPruned, Actor: actor, Subject: subject, Details: append(b, '}')}
}

// quote writes s as a JSON string; invalid UTF-8 becomes U+FFFD.
func quote(s string) []byte {
	b, _ := jsontext.AppendQuote(nil, s)
	return b
}
