package auditlog_test

import (
	"bytes"
	"database/sql"
	"errors"
	"log/slog"
	"testing"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
)

// peer is the sealer of another node, with a memory of its own.
func (w *world) peer(dir string) *auditlog.Sealer {
	w.t.Helper()
	sign, err := audit.NewSigner(origin, testKey(1))
	if err != nil {
		w.t.Fatal(err)
	}
	file := signer(dir)
	s := auditlog.NewSealer(auditlog.New(w.store, origin, vkeyOf(w.t, 1), file), w.ledger, slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil)), sign)
	s.Share(keysOf(w.t, 1), file.Create)
	return s
}

// Sealers that share a log take turns, each with a memory of its own. One that
// comes for the first time verifies all of it.
func TestSealersShareALog(t *testing.T) {
	one, two, three := t.TempDir(), t.TempDir(), t.TempDir()
	w := open(t, one)
	w.sealer.Share(keysOf(t, 1), signer(one).Create)
	other := w.peer(two)
	w.grow(100)
	add := func(n int) {
		for i := range n {
			if _, err := w.ledger.Append(t.Context(), event(200+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, s := range []*auditlog.Sealer{other, w.sealer, other, w.sealer, w.peer(three)} {
		add(7)
		for range 2 {
			if err := s.Seal(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		want := int64(100 + 7*(i+1))
		if s.Sealed() != want {
			t.Errorf("turn %d: sealed %d, want %d", i, s.Sealed(), want)
		}
	}
	for _, dir := range []string{one, three} {
		if state, err := signer(dir).Load(); err != nil || state.State.Head.Size < 128 {
			t.Errorf("memory of %s: %d, %v", dir, state.State.Head.Size, err)
		}
	}
	v, err := w.log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1)})
	if err != nil || !v.Valid || v.SealedThrough != 135 {
		t.Errorf("%+v %v", v, err)
	}

	// What another has signed is not taken over when the entries are others by now.
	w.stop()
	attack(t, database(one), func(db *sql.DB) {
		dropGuards(t, db)
		exec(t, db, `UPDATE audit_entries SET octets = CAST(replace(CAST(octets AS TEXT), '1000202', '1000203') AS BLOB) WHERE seq BETWEEN 107 AND 113`)
	})
	w = open(t, one)
	late := w.peer(t.TempDir())
	if err := late.Seal(t.Context()); !errors.Is(err, auditlog.ErrAlarm) || late.Alarm() == nil {
		t.Errorf("a new node on an edited log: %v", err)
	}
	// Nor by one with another key.
	sign, err := audit.NewSigner(origin, testKey(2))
	if err != nil {
		t.Fatal(err)
	}
	file := signer(t.TempDir())
	stranger := auditlog.NewSealer(auditlog.New(w.store, origin, vkeyOf(t, 2), file), w.ledger, slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil)), sign)
	stranger.Share(keysOf(t, 2), file.Create)
	if err := stranger.Seal(t.Context()); !errors.Is(err, auditlog.ErrAlarm) {
		t.Errorf("a node with another key: %v", err)
	}
}
