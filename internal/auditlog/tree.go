package auditlog

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/asap-protocol/asap-go/audit"
)

// errHole reports entries that should be there and are not.
var errHole = errors.New("entries are missing; verify the log")

// width is how many nodes are below a node of the next stored level, and how
// many are read at once.
const width = 1 << audit.NodeSpan

// A tree is the Merkle tree of a stored log: nodes that are stored, or computed
// from those below them. With all of them in the store, a node costs a page of
// each stored level below it, however large the log is. It implements
// audit.HashReader.
type tree struct {
	s           Snapshot
	first, size int64
	kept        map[nodeKey]audit.Hash // of what was pruned, and what was just computed
	pages       map[int]*nodePage      // the last one read of each level; 0 has the leaves
	stored      bool                   // stored nodes are used
}

// nodeKey is where a node is.
type nodeKey struct {
	level    int
	position int64
}

// nodePage is a row of neighbours.
type nodePage struct {
	first int64
	nodes map[int64]audit.Hash
}

func newTree(s Snapshot, stored *Stored) *tree {
	t := &tree{s: s, first: stored.minIndex(), size: stored.size(), kept: map[nodeKey]audit.Hash{}, pages: map[int]*nodePage{}, stored: true}
	if p := stored.Prune; p != nil {
		if r, err := audit.NewCompactRange(p.MinIndex, p.CompactRange); err == nil { // else its hashes are missed
			for _, n := range r.Nodes() {
				t.kept[nodeKey{n.Level, n.Position}] = n.Hash
			}
		}
	}
	return t
}

// withoutNodes makes the tree compute everything from the entries.
func (t *tree) withoutNodes() *tree {
	t.stored = false
	return t
}

// treeOf is the tree of a log with the root of its first size entries. If a
// checkpoint of that size says otherwise, stored nodes are not believed.
func treeOf(s Snapshot, stored *Stored, size int64, sealed audit.CheckpointRow) (*tree, audit.Hash, error) {
	t := newTree(s, stored)
	root, err := t.root(size)
	if err == nil && sealed.Note != nil && root != sealed.Root {
		t = newTree(s, stored).withoutNodes()
		root, err = t.root(size)
	}
	return t, root, err
}

// ReadHashes implements audit.HashReader.
func (t *tree) ReadHashes(indexes []int64) ([]audit.Hash, error) {
	out := make([]audit.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		var err error
		if out[i], err = t.node(nodeKey{level, n}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// root is that of the tree of the first size entries.
func (t *tree) root(size int64) (audit.Hash, error) {
	r, err := t.compactRange(size)
	return r.Root(), err
}

// compactRange is that of the first size entries.
func (t *tree) compactRange(size int64) (audit.CompactRange, error) {
	var hashes []audit.Hash
	for from := int64(0); from < size; {
		level := bits.Len64(uint64(size-from)) - 1
		h, err := t.node(nodeKey{level, from >> level})
		if err != nil {
			return audit.CompactRange{}, err
		}
		hashes = append(hashes, h)
		from += 1 << level
	}
	return audit.NewCompactRange(size, hashes)
}

// node finds or computes a node.
func (t *tree) node(at nodeKey) (audit.Hash, error) {
	if h, ok := t.kept[at]; ok {
		return h, nil
	}
	if at.level%audit.NodeSpan == 0 && (at.level == 0 || t.stored) {
		h, ok, err := t.look(at)
		if err != nil || ok {
			return h, err
		}
	}
	if at.level == 0 {
		if at.position < t.first {
			return audit.Hash{}, fmt.Errorf("the hash of entry %d: %w", at.position, audit.ErrPruned)
		}
		return audit.Hash{}, fmt.Errorf("the hash of entry %d: %w", at.position, errHole)
	}
	left, err := t.node(nodeKey{at.level - 1, 2 * at.position})
	if err != nil {
		return audit.Hash{}, err
	}
	right, err := t.node(nodeKey{at.level - 1, 2*at.position + 1})
	if err != nil {
		return audit.Hash{}, err
	}
	return tlog.NodeHash(left, right), nil
}

// look reads a node of a level that is stored, with its neighbours.
func (t *tree) look(at nodeKey) (h audit.Hash, found bool, err error) {
	first := at.position &^ (width - 1)
	p := t.pages[at.level]
	if p == nil || p.first != first {
		p = &nodePage{first: first, nodes: make(map[int64]audit.Hash, width)}
		if at.level == 0 {
			err = t.leaves(p)
		} else {
			for n, err := range t.s.Nodes(at.level, first, first+width) {
				if err != nil {
					return h, false, err
				}
				p.nodes[n.Position] = n.Hash
			}
		}
		if err != nil {
			return h, false, err
		}
		t.pages[at.level] = p
	}
	h, found = p.nodes[at.position]
	return h, found, nil
}

func (t *tree) leaves(p *nodePage) error {
	from, to := max(p.first, t.first), min(p.first+width, t.size)
	next := from
	for hash, err := range t.s.Hashes(from, to) {
		if err != nil {
			return err
		}
		p.nodes[next] = audit.LeafHash(hash)
		next++
	}
	if next < to { // and nobody knows which
		return fmt.Errorf("%d of the entries %d to %d: %w", to-next, from, to-1, errHole)
	}
	return nil
}

// nodesAtOnce bounds how many nodes of the lowest stored level one checkpoint
// brings with it, if there is a backlog.
const nodesAtOnce = 256

// newNodes are the nodes that the first size entries complete and the store does
// not have, from its last one on. A log with a hole has none: they can wait.
func newNodes(s Snapshot, stored *Stored, size int64) ([]audit.TreeNode, error) {
	t := newTree(s, stored)
	var nodes []audit.TreeNode
	from := max(stored.Nodes, stored.minIndex()>>audit.NodeSpan)
	for n := from; n < min(size>>audit.NodeSpan, from+nodesAtOnce); n++ {
		for level, position := audit.NodeSpan, n; ; level, position = level+audit.NodeSpan, position>>audit.NodeSpan {
			h, err := t.node(nodeKey{level, position})
			if errors.Is(err, errHole) || errors.Is(err, audit.ErrPruned) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			t.kept[nodeKey{level, position}] = h
			nodes = append(nodes, audit.TreeNode{Level: level, Position: position, Hash: h})
			if (position+1)%width != 0 {
				break
			}
		}
	}
	return nodes, nil
}
