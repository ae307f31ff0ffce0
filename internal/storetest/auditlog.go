package storetest

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// testCheckpoints stores checkpoints and prunes the log: what is left is served,
// and what the prune keeps is given back.
func testCheckpoints(t *testing.T, b Backend) {
	r := start(t, b)
	for n := range 30 {
		r.admit(admission(n))
		r.settle(settlement(n))
	}
	entries := r.log()
	size := int64(len(entries))
	var tree audit.CompactRange
	for _, e := range entries[:40] {
		tree.Add(audit.LeafHash(e.Hash))
	}
	row := audit.CheckpointRow{Size: 40, Root: tree.Root(), Note: []byte("a note\n")}
	nodes := []audit.TreeNode{{Level: 8, Position: 0, Hash: audit.Hash{1}}, {Level: 8, Position: 1, Hash: audit.Hash{2}}, {Level: 16, Position: 0, Hash: audit.Hash{3}}}
	if err := r.ledger.StoreCheckpoint(r.ctx, row, nodes[:2]...); err != nil {
		t.Fatal(err)
	}
	// One that is there stays as it is.
	if err := r.ledger.StoreCheckpoint(r.ctx, row, audit.TreeNode{Level: 8, Position: 1, Hash: audit.Hash{9}}, nodes[2]); err != nil {
		t.Fatal(err)
	}
	r.refused(ledger.ErrInvalid, func() error {
		return r.ledger.StoreCheckpoint(r.ctx, audit.CheckpointRow{Size: size + 1})
	})
	state := audit.State{Head: audit.Head{Size: 40, Hash: entries[39].Hash}, Tree: tree}
	prune := ledger.Prune{Prune: audit.NewPrune(state, 40, 0), Policy: "test"}
	r.refused(ledger.ErrInvalid, func() error {
		wrong := prune
		wrong.CheckpointSize = 39
		_, err := r.ledger.PruneAudit(r.ctx, wrong)
		return err
	})
	receipt, err := r.ledger.PruneAudit(r.ctx, prune)
	if err != nil || receipt.Seq != size {
		t.Fatal(receipt, err)
	}
	if !b.Forgets {
		r.restart()
	}
	err = r.store.ReadAudit(r.ctx, func(s auditlog.Snapshot) error {
		stored, err := s.Stored()
		if err != nil {
			return err
		}
		p := stored.Prune
		if stored.Head == nil || stored.Head.Size != size+1 || stored.Rows != size+1 || p == nil || p.MinIndex != 40 || p.HeadHash != entries[39].Hash ||
			len(p.CompactRange) != 2 || p.CheckpointSize != 40 || p.AtUS == 0 || len(stored.GuardsMissing) != 0 {
			t.Errorf("stored is %+v, prune %+v", stored, p)
		}
		if k, found, err := s.Newest(math.MaxInt64); err != nil || !found || k.Size != 40 || k.Root != row.Root || string(k.Note) != "a note\n" {
			t.Errorf("newest is %+v %v %v", k, found, err)
		}
		if _, found, err := s.Newest(39); err != nil || found {
			t.Errorf("there is one of 39: %v", err)
		}
		testTreeNodes(t, s, &stored, nodes)
		next := int64(40)
		for e, err := range s.Entries(0, math.MaxInt64) {
			if err != nil {
				return err
			}
			if e.Seq != next || e.Columns == nil {
				t.Errorf("entry %d, want %d", e.Seq, next)
			}
			next++
		}
		if next != size+1 {
			t.Errorf("entries end at %d, want %d", next, size+1)
		}
		v, err := audit.Verify(audit.Source{Origin: origin, Rows: s.Entries(40, math.MaxInt64), Head: stored.Head, Prune: p}, audit.Options{})
		if err != nil || !v.Valid {
			t.Errorf("%+v %v", v, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	left, _, err := r.store.ListAudit(r.ctx, audit.Filter{}, 0, 1000)
	if err != nil || int64(len(left)) != size+1-40 || left[0].Seq != 40 {
		t.Errorf("%d entries are listed, %v", len(left), err)
	}
	if _, err := r.store.AuditEntry(r.ctx, entries[3].ID); !errors.Is(err, audit.ErrNoEntry) {
		t.Errorf("a pruned entry: %v", err)
	}
	r.admit(admission(100))
	r.settle(settlement(100))
}

// testTreeNodes asks for the stored nodes in pieces.
func testTreeNodes(t *testing.T, s auditlog.Snapshot, stored *auditlog.Stored, want []audit.TreeNode) {
	t.Helper()
	if stored.Nodes != 2 {
		t.Errorf("nodes up to %d, want 2", stored.Nodes)
	}
	for _, c := range []struct {
		level    int
		from, to int64
		want     []audit.TreeNode
	}{
		{8, 0, math.MaxInt64, want[:2]}, {8, 1, 2, want[1:2]}, {8, 0, 1, want[:1]}, {8, 2, 300, nil}, {16, 0, 256, want[2:]}, {24, 0, 256, nil},
	} {
		var got []audit.TreeNode
		for n, err := range s.Nodes(c.level, c.from, c.to) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("nodes of level %d from %d to %d: %v", c.level, c.from, c.to, got)
		}
	}
}
