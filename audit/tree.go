package audit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a hash of the Merkle tree: a leaf, an inner node or a root. Its text
// form is base64, unlike that of entry hashes, which is hexadecimal.
type Hash = tlog.Hash

// HashReader serves stored tree hashes, by the index that
// [tlog.StoredHashIndex] gives to (level, position); see there for the contract.
type HashReader = tlog.HashReader

// LeafHash is the leaf of an entry: RFC 6962's leaf hash of the 32 raw bytes of
// its hash. Leaves say nothing about contents and can be published.
func LeafHash(entry [32]byte) Hash {
	var b [33]byte // 0x00, then the data
	copy(b[1:], entry[:])
	return sha256.Sum256(b[:])
}

func nodeHash(left, right *Hash) Hash {
	var b [65]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[33:], right[:])
	return sha256.Sum256(b[:])
}

// CompactRange is the state of a Merkle tree that only grows: the roots of its
// perfect subtrees, from left to right, at most 63. The zero value is the empty
// tree. It is enough to add leaves and to know the root, so a log can lose its
// oldest entries and go on.
type CompactRange struct {
	size  int64
	nodes []Hash
}

// NewCompactRange restores the range of a tree of size leaves. It checks that
// there are as many hashes as such a tree has perfect subtrees; whether they
// are the right ones shows when a root is compared.
func NewCompactRange(size int64, hashes []Hash) (CompactRange, error) {
	if size < 0 || bits.OnesCount64(uint64(size)) != len(hashes) {
		return CompactRange{}, fmt.Errorf("a tree of %d leaves does not have %d perfect subtrees", size, len(hashes))
	}
	return CompactRange{size: size, nodes: slices.Clone(hashes)}, nil
}

// Size is the number of leaves.
func (r *CompactRange) Size() int64 { return r.size }

// Hashes are the roots of the perfect subtrees from left to right, a copy.
func (r *CompactRange) Hashes() []Hash { return slices.Clone(r.nodes) }

// Add appends a leaf.
func (r *CompactRange) Add(leaf Hash) { r.add(leaf, nil) }

// add appends a leaf and tells visit, if not nil, every node that it completes.
func (r *CompactRange) add(leaf Hash, visit func(level int, n int64, h Hash)) {
	if visit != nil {
		visit(0, r.size, leaf)
	}
	level := 0
	for s := r.size; s&1 == 1; s >>= 1 {
		last := len(r.nodes) - 1
		leaf = nodeHash(&r.nodes[last], &leaf)
		r.nodes = r.nodes[:last]
		level++
		if visit != nil {
			visit(level, r.size>>level, leaf)
		}
	}
	r.nodes = append(r.nodes, leaf)
	r.size++
}

// each calls visit with the position of every node of the range.
func (r *CompactRange) each(visit func(level int, n int64, h Hash)) {
	var from int64
	for _, h := range r.nodes {
		level := bits.Len64(uint64(r.size-from)) - 1
		visit(level, from>>level, h)
		from += 1 << level
	}
}

// Root is the root of the tree; that of the empty tree is SHA-256 of nothing.
func (r *CompactRange) Root() Hash {
	if len(r.nodes) == 0 {
		return sha256.Sum256(nil)
	}
	root := r.nodes[len(r.nodes)-1]
	for i := len(r.nodes) - 2; i >= 0; i-- {
		root = nodeHash(&r.nodes[i], &root)
	}
	return root
}

// A TreeNode is the root of a perfect subtree of 1<<Level leaves, of which
// Position come before it: it covers the leaves from Position<<Level on. A store
// keeps those of every [NodeSpan]-th level but the leaves, so that a proof reads
// few rows; they are an index of the entries.
type TreeNode struct {
	Level    int
	Position int64
	Hash     Hash
}

// NodeSpan is the distance of the levels whose nodes are stored: 8, 16, 24, ...
const NodeSpan = 8

// Nodes are the perfect subtrees of the range, from left to right.
func (r *CompactRange) Nodes() []TreeNode {
	nodes := make([]TreeNode, 0, len(r.nodes))
	r.each(func(level int, n int64, h Hash) { nodes = append(nodes, TreeNode{level, n, h}) })
	return nodes
}

// clone returns a range that shares nothing with r.
func (r *CompactRange) clone() CompactRange {
	return CompactRange{size: r.size, nodes: slices.Clone(r.nodes)}
}

// ErrPruned reports that a proof needs hashes of a part of the log that is gone.
var ErrPruned = errors.New("the hashes were pruned")
