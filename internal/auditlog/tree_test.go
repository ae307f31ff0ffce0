package auditlog

import (
	"encoding/binary"
	"errors"
	"iter"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/asap-protocol/asap-go/audit"
)

// fakeSnapshot is a log of hashes in memory that counts the rows it gives out.
type fakeSnapshot struct {
	Snapshot
	size, first int64
	nodes       map[nodeKey]audit.Hash
	read        int
	hole        int64 // this entry is missing; -1 for none
	fault       error
}

func hashOf(seq int64) (h [32]byte) {
	binary.BigEndian.PutUint64(h[:], uint64(seq))
	return h
}

func (f *fakeSnapshot) Hashes(from, to int64) iter.Seq2[[32]byte, error] {
	return func(yield func([32]byte, error) bool) {
		if f.fault != nil {
			yield([32]byte{}, f.fault)
			return
		}
		for seq := max(from, f.first); seq < min(to, f.size); seq++ {
			if seq == f.hole {
				continue
			}
			f.read++
			if !yield(hashOf(seq), nil) {
				return
			}
		}
	}
}

func (f *fakeSnapshot) Nodes(level int, from, to int64) iter.Seq2[audit.TreeNode, error] {
	return func(yield func(audit.TreeNode, error) bool) {
		if f.fault != nil {
			yield(audit.TreeNode{}, f.fault)
			return
		}
		for n := from; n < to; n++ {
			if h, ok := f.nodes[nodeKey{level, n}]; ok {
				f.read++
				if !yield(audit.TreeNode{Level: level, Position: n, Hash: h}, nil) {
					return
				}
			}
		}
	}
}

// grown is a log of size entries with all its nodes, made as the sealer makes
// them, step entries at a time.
func grown(t testing.TB, size, step int64) *fakeSnapshot {
	t.Helper()
	f := &fakeSnapshot{nodes: map[nodeKey]audit.Hash{}, hole: -1}
	for f.size < size {
		f.size = min(size, f.size+step)
		f.seal(t)
	}
	return f
}

func (f *fakeSnapshot) stored() Stored {
	stored := Stored{Rows: f.size}
	for n := range f.nodes {
		if n.level == audit.NodeSpan {
			stored.Nodes = max(stored.Nodes, n.position+1)
		}
	}
	return stored
}

func (f *fakeSnapshot) seal(t testing.TB) {
	t.Helper()
	stored := f.stored()
	nodes, err := newNodes(f, &stored, f.size)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if _, twice := f.nodes[nodeKey{n.Level, n.Position}]; twice {
			t.Fatalf("node %d/%d is made twice", n.Level, n.Position)
		}
		f.nodes[nodeKey{n.Level, n.Position}] = n.Hash
	}
}

// plain is the tree computed the simple way.
func plain(size int64) (r audit.CompactRange) {
	for seq := range size {
		r.Add(audit.LeafHash(hashOf(seq)))
	}
	return r
}

// Proofs made of stored nodes are those made of all hashes, and read a bounded
// number of rows: at most a page of each stored level for each of its ends.
func TestTreeReadsFewRows(t *testing.T) {
	const size = 150_000
	f := grown(t, size, 10_000)
	if want := size>>8 + size>>16; len(f.nodes) != want {
		t.Fatalf("%d nodes, want %d", len(f.nodes), want)
	}
	rapid.Check(t, func(t *rapid.T) {
		newer := rapid.Int64Range(1, size).Draw(t, "size")
		older := rapid.Int64Range(1, newer).Draw(t, "older")
		seq := rapid.Int64Range(0, newer-1).Draw(t, "seq")
		stored := f.stored()
		f.read = 0
		read, root, err := treeOf(f, &stored, newer, audit.CheckpointRow{})
		if err != nil {
			t.Fatal(err)
		}
		proof, err := audit.ProveInclusion(newer, seq, read)
		if err != nil {
			t.Fatal(err)
		}
		if err := audit.CheckInclusion(proof, newer, root, seq, hashOf(seq)); err != nil {
			t.Fatal(err)
		}
		before, err := read.root(older)
		if err != nil {
			t.Fatal(err)
		}
		if proof, err = audit.ProveConsistency(older, newer, read); err != nil {
			t.Fatal(err)
		}
		if err := audit.CheckConsistency(proof, audit.Checkpoint{Size: older, Root: before}, audit.Checkpoint{Size: newer, Root: root}); err != nil {
			t.Fatal(err)
		}
		if f.read > 12*width {
			t.Fatalf("%d rows were read", f.read)
		}
	})
	for _, size := range []int64{1, 255, 256, 257, 65_535, 65_536, 65_537, size} {
		stored := f.stored()
		tree := plain(size)
		if _, root, err := treeOf(f, &stored, size, audit.CheckpointRow{}); err != nil || root != tree.Root() {
			t.Errorf("root of %d entries: %v", size, err)
		}
	}
}

// Nodes that are missing or wrong cost time and nothing else: they are an index.
func TestTreeWithoutNodes(t *testing.T) {
	const size = 3000
	f := grown(t, size, 700)
	tree := plain(size)
	row := audit.CheckpointRow{Size: size, Root: tree.Root(), Note: []byte("note")}
	check := func(what string) {
		t.Helper()
		stored := f.stored()
		read, root, err := treeOf(f, &stored, size, row)
		if err != nil || root != row.Root {
			t.Fatalf("%s: %v", what, err)
		}
		proof, err := audit.ProveInclusion(size, 1000, read)
		if err == nil {
			err = audit.CheckInclusion(proof, size, root, 1000, hashOf(1000))
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("all nodes")
	delete(f.nodes, nodeKey{8, 2})
	check("one is missing")
	f.nodes[nodeKey{8, 7}] = audit.Hash{1}
	check("one is wrong")
	clear(f.nodes)
	check("none")
	f.seal(t)
	if len(f.nodes) != size>>8 {
		t.Errorf("%d nodes were made anew", len(f.nodes))
	}
}

// A backlog is worked off a bounded number of nodes at a time.
func TestTreeBacklog(t *testing.T) {
	f := &fakeSnapshot{nodes: map[nodeKey]audit.Hash{}, hole: -1, size: (nodesAtOnce + 3) << 8}
	f.seal(t)
	if len(f.nodes) != nodesAtOnce+1 {
		t.Errorf("%d nodes at once", len(f.nodes))
	}
	f.seal(t)
	if len(f.nodes) != nodesAtOnce+3+1 {
		t.Errorf("%d nodes after the second time", len(f.nodes))
	}
	tree := plain(256 << 8)
	if f.nodes[nodeKey{16, 0}] != tree.Root() {
		t.Error("the node above is another")
	}
}

// After a prune the tree goes on from the range that was kept, also if the nodes
// before it were never stored.
func TestTreeAfterPrune(t *testing.T) {
	const size = 70_000
	for _, first := range []int64{1, 255, 256, 300, 1000, 65_536, 66_000, 69_999} {
		f := &fakeSnapshot{nodes: map[nodeKey]audit.Hash{}, hole: -1, size: size, first: first}
		gone := plain(first)
		stored := Stored{Rows: size, Prune: &audit.Prune{MinIndex: first, CompactRange: gone.Hashes()}}
		tree := plain(size)
		for range 3 {
			nodes, err := newNodes(f, &stored, size)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes {
				f.nodes[nodeKey{n.Level, n.Position}] = n.Hash
				if n.Level == 8 {
					stored.Nodes = n.Position + 1
				}
			}
			_, root, err := treeOf(f, &stored, size, audit.CheckpointRow{})
			if err != nil || root != tree.Root() {
				t.Fatalf("pruned to %d: %v", first, err)
			}
		}
		if want := size >> 8; stored.Nodes != int64(want) && first>>8 < int64(want) {
			t.Errorf("pruned to %d: nodes up to %d of %d", first, stored.Nodes, want)
		}
		read := newTree(f, &stored)
		if _, err := read.node(nodeKey{0, first - 1}); first%2 == 0 && !errors.Is(err, audit.ErrPruned) {
			t.Errorf("a leaf that was pruned: %v", err)
		}
	}
}

// A hole is said to be one, wherever it is met; it keeps no checkpoint from being
// made.
func TestTreeWithHole(t *testing.T) {
	f := &fakeSnapshot{nodes: map[nodeKey]audit.Hash{}, hole: 500, size: 2000}
	stored := f.stored()
	if _, _, err := treeOf(f, &stored, 2000, audit.CheckpointRow{}); !errors.Is(err, errHole) {
		t.Errorf("root over a hole: %v", err)
	}
	if _, err := newTree(f, &stored).node(nodeKey{0, math.MaxInt32}); !errors.Is(err, errHole) {
		t.Errorf("a leaf beyond the end: %v", err)
	}
	if nodes, err := newNodes(f, &stored, 2000); err != nil || nodes != nil {
		t.Errorf("nodes over a hole: %v %v", nodes, err)
	}
	f.hole, f.fault = -1, errors.New("disk")
	if _, err := newNodes(f, &stored, 2000); !errors.Is(err, f.fault) {
		t.Errorf("a fault: %v", err)
	}
	if _, err := newTree(f, &stored).withoutNodes().node(nodeKey{8, 0}); !errors.Is(err, f.fault) {
		t.Errorf("a fault: %v", err)
	}
}
