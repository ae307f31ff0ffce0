package audit

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrProof reports a proof that does not prove what it should.
var ErrProof = errors.New("proof does not hold")

// Receipt is what a counterparty keeps of an entry. With it and a checkpoint it
// can demand a proof that the entry is still in the log.
type Receipt struct {
	ID   string
	Seq  int64
	Hash [32]byte
}

// ProveInclusion proves that the entry seq is in the tree of size entries.
func ProveInclusion(size, seq int64, r HashReader) ([]Hash, error) {
	return tlog.ProveRecord(size, seq, r)
}

// CheckInclusion checks such a proof for the entry with this hash. Errors wrap
// ErrProof.
func CheckInclusion(proof []Hash, size int64, root Hash, seq int64, entry [32]byte) error {
	if err := tlog.CheckRecord(proof, size, root, seq, LeafHash(entry)); err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	return nil
}

// ProveConsistency proves that the tree of size oldSize is a prefix of that of
// newSize. Proofs from size 0 are empty.
func ProveConsistency(oldSize, newSize int64, r HashReader) ([]Hash, error) {
	if oldSize == 0 && newSize >= 0 {
		return nil, nil
	}
	return tlog.ProveTree(newSize, oldSize, r)
}

// CheckConsistency checks that the older checkpoint describes a prefix of what
// the newer one does. Errors wrap ErrProof. The signatures of both are the
// caller's to check, with [Keys.Open].
func CheckConsistency(proof []Hash, older, newer Checkpoint) error {
	switch {
	case older.Origin != newer.Origin:
		return fmt.Errorf("%w: checkpoints of two logs, %s and %s", ErrProof, older.Origin, newer.Origin)
	case older.Size > newer.Size:
		return fmt.Errorf("%w: the older checkpoint has %d entries, the newer %d", ErrProof, older.Size, newer.Size)
	case older.Size == 0:
		empty := CompactRange{}
		if len(proof) != 0 || older.Root != empty.Root() {
			return fmt.Errorf("%w: the empty log has one root and no proof", ErrProof)
		}
		return nil
	}
	if err := tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root); err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	return nil
}

// InclusionHashes lists the stored hashes that ProveInclusion will read.
func InclusionHashes(size, seq int64) ([]int64, error) {
	return needed(func(r HashReader) error { _, err := tlog.ProveRecord(size, seq, r); return err })
}

// ConsistencyHashes lists the stored hashes that ProveConsistency will read.
func ConsistencyHashes(oldSize, newSize int64) ([]int64, error) {
	return needed(func(r HashReader) error { _, err := ProveConsistency(oldSize, newSize, r); return err })
}

func needed(prove func(HashReader) error) ([]int64, error) {
	var list []int64
	err := prove(tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		list = append(list, indexes...)
		return make([]Hash, len(indexes)), nil
	}))
	return list, err
}

// CollectHashes serves the stored hashes listed in need for a log that stores
// entry hashes only: it reads them once, from entry start.Size() on, and keeps
// what is needed. start is the zero range, or that of a pruned log; hashes that
// lie inside the pruned part are ErrPruned. Memory grows with need alone.
func CollectHashes(start CompactRange, entries iter.Seq2[[32]byte, error], need ...int64) (HashReader, error) {
	got := make(collected, len(need))
	last := int64(-1)
	for _, i := range need {
		got[i] = nil
		last = max(last, i)
	}
	visit := func(level int, n int64, h Hash) {
		i := tlog.StoredHashIndex(level, n)
		if _, ok := got[i]; ok {
			got[i] = &h
		}
	}
	r := start.clone()
	r.each(visit)
	for hash, err := range entries {
		if err != nil {
			return nil, err
		}
		if tlog.StoredHashIndex(0, r.size) > last { // all that follow have higher indexes
			break
		}
		r.add(LeafHash(hash), visit)
	}
	for i, h := range got {
		if h != nil {
			continue
		}
		if level, n := tlog.SplitStoredHashIndex(i); n<<level < start.size {
			return nil, fmt.Errorf("%w: level %d, position %d", ErrPruned, level, n)
		}
		return nil, fmt.Errorf("the log ends before stored hash %d", i)
	}
	return got, nil
}

type collected map[int64]*Hash

// ReadHashes implements HashReader.
func (c collected) ReadHashes(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	for i, index := range indexes {
		h := c[index]
		if h == nil {
			return nil, fmt.Errorf("stored hash %d was not collected", index)
		}
		out[i] = *h
	}
	return out, nil
}

// Proof is an inclusion proof that stands alone: who has the key and the entry
// (or its receipt) needs nothing else. Its text is a C2SP tlog-proof.
type Proof struct {
	Seq        int64
	Hashes     []Hash
	Checkpoint []byte // signed note
}

const proofMagic = "c2sp.org/tlog-proof@v1\n"

// Format writes the proof as text.
func (p Proof) Format() []byte {
	b := []byte(proofMagic + "index " + strconv.FormatInt(p.Seq, 10) + "\n")
	for _, h := range p.Hashes {
		b = append(append(b, h.String()...), '\n')
	}
	return append(append(b, '\n'), p.Checkpoint...)
}

// ParseProof reads the text of a proof; an "extra" line, which nothing
// authenticates, is refused. Errors wrap ErrProof or ErrCheckpoint.
func ParseProof(text []byte) (Proof, error) {
	head, signed, ok := bytes.Cut(text, []byte("\n\n"))
	lines, magic := strings.CutPrefix(string(head), proofMagic)
	if !ok || !magic {
		return Proof{}, fmt.Errorf("%w: not a tlog-proof", ErrProof)
	}
	list := strings.Split(lines, "\n")
	index, found := strings.CutPrefix(list[0], "index ")
	seq, err := strconv.ParseInt(index, 10, 64)
	if !found || err != nil || seq < 0 || strconv.FormatInt(seq, 10) != index || len(list) > 64 {
		return Proof{}, fmt.Errorf("%w: index line %.60q", ErrProof, list[0])
	}
	p := Proof{Seq: seq, Checkpoint: signed}
	for _, text := range list[1:] {
		h, err := tlog.ParseHash(text)
		if err != nil || h.String() != text {
			return Proof{}, fmt.Errorf("%w: hash %.60q", ErrProof, text)
		}
		p.Hashes = append(p.Hashes, h)
	}
	if _, err := ParseCheckpoint(signed); err != nil {
		return Proof{}, err
	}
	return p, nil
}

// Check verifies that the entry of the receipt is in the log, as signed by one
// of keys, and returns the checkpoint that says so. The id of a receipt is not
// covered by a proof: compare it with the entry. Errors wrap ErrProof,
// ErrCheckpoint, ErrUnknownKey or ErrSignature.
func (p Proof) Check(keys Keys, r Receipt) (Checkpoint, error) {
	c, err := keys.Open(p.Checkpoint)
	if err != nil {
		return Checkpoint{}, err
	}
	if p.Seq != r.Seq {
		return Checkpoint{}, fmt.Errorf("%w: it is about entry %d, not %d", ErrProof, p.Seq, r.Seq)
	}
	return c, CheckInclusion(p.Hashes, c.Size, c.Root, r.Seq, r.Hash)
}
