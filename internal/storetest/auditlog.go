package storetest

import (
	"errors"
	"math"
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
	if err := r.ledger.StoreCheckpoint(r.ctx, row); err != nil {
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
