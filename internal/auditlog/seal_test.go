package auditlog_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
)

// A crash comes between every two steps of sealing; the next start goes on.
func TestSealingCrashes(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	w.grow(0) // the empty log is sealed too
	w.grow(100)
	state, err := signer(dir).Load()
	if err != nil {
		t.Fatal(err)
	}
	if state.State.Head.Size != 100 {
		t.Fatalf("signed %d", state.State.Head.Size)
	}
	// Signed and not stored: the file is ahead of the database.
	w.stop()
	attack(t, database(dir), func(db *sql.DB) {
		exec(t, db, `DROP TRIGGER audit_checkpoints_no_delete`, `DELETE FROM audit_checkpoints WHERE size = 100`)
	})
	w = open(t, dir)
	if err := w.sealer.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	note, err := w.log.Checkpoint(t.Context())
	if err != nil || string(note) != string(state.Note) {
		t.Errorf("the note of the dead run was not stored: %q %v", note, err)
	}
	w.grow(150)
	v, err := w.log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1)})
	if err != nil || !v.Valid || v.SealedThrough != 150 {
		t.Errorf("%+v %v", v, err)
	}
	w.stop()
}

// Whatever is not as it was signed is an alarm that stays; nothing more is
// signed and nothing is mended.
func TestAlarms(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(*testing.T, string)
		grow int
		want error
	}{
		{"an edited entry of the tail", func(t *testing.T, dir string) {
			attack(t, database(dir), func(db *sql.DB) {
				exec(t, db, `UPDATE audit_entries SET octets = CAST(replace(CAST(octets AS TEXT), '1000105', '1000106') AS BLOB) WHERE seq = 105`)
			})
		}, 0, nil},
		{"a deleted tail", func(t *testing.T, dir string) {
			attack(t, database(dir), func(db *sql.DB) {
				exec(t, db, `DELETE FROM audit_entries WHERE seq >= 90`, `UPDATE audit_head SET seq = 89, hash = (SELECT hash FROM audit_entries WHERE seq = 89)`)
			})
		}, 0, audit.ErrRolledBack},
		{"a deleted tail that grew again", func(t *testing.T, dir string) {
			attack(t, database(dir), func(db *sql.DB) {
				exec(t, db, `DELETE FROM audit_entries WHERE seq >= 90`, `UPDATE audit_head SET seq = 89, hash = (SELECT hash FROM audit_entries WHERE seq = 89)`)
			})
		}, 50, audit.ErrForked},
		{"no memory", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "audit-signer.json")); err != nil {
				t.Fatal(err)
			}
		}, 0, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			w := open(t, dir)
			w.grow(100)
			for i := range 10 {
				if _, err := w.ledger.Append(t.Context(), event(100+i)); err != nil {
					t.Fatal(err)
				}
			}
			w.stop()
			attack(t, database(dir), func(db *sql.DB) { dropGuards(t, db) })
			c.do(t, dir)
			w = open(t, dir)
			for i := range c.grow {
				if _, err := w.ledger.Append(t.Context(), event(500+i)); err != nil {
					t.Fatal(err)
				}
			}
			before, _ := os.ReadFile(filepath.Join(dir, "audit-signer.json"))
			for range 2 {
				err := w.sealer.Seal(t.Context())
				if !errors.Is(err, auditlog.ErrAlarm) || c.want != nil && !errors.Is(err, c.want) || w.sealer.Alarm() == nil {
					t.Errorf("got %v, want an alarm that is %v", err, c.want)
				}
			}
			after, _ := os.ReadFile(filepath.Join(dir, "audit-signer.json"))
			if string(before) != string(after) {
				t.Error("something was signed")
			}
			if n := strings.Count(w.logged.String(), "audit.integrity_alarm: the audit log is not"); n != 1 {
				t.Errorf("the log says it %d times:\n%s", n, w.logged)
			}
			w.stop()
		})
	}
}

// Run seals when there is much, and at the end.
func TestRunSeals(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.sealer.Run(ctx) }()
	events := make([]audit.Event, 1000)
	for i := range events {
		events[i] = event(i)
	}
	if _, err := w.ledger.Append(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	stop()
	<-done
	v, err := w.log.Verify(t.Context(), auditlog.Check{Keys: keysOf(t, 1)})
	if err != nil || !v.Valid || v.SealedThrough != 1000 {
		t.Errorf("%+v %v", v, err)
	}
	w.stop()
}

// A log keeps its name.
func TestOtherName(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	w.grow(1)
	other := auditlog.New(w.store, "urn:asap:agent:other", "", signer(dir))
	if err := auditlog.Begin(t.Context(), other, signer(dir).Create); err == nil || !strings.Contains(err.Error(), origin) {
		t.Errorf("%v", err)
	}
	w.stop()
}

// Every byte of an export counts: any single change is found, wherever it is.
func TestExportBytes(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	w.grow(3)
	w.grow(8)
	for _, format := range []audit.Format{audit.JSONL, audit.JSON} {
		var b strings.Builder
		if err := w.log.Export(t.Context(), &b, format); err != nil {
			t.Fatal(err)
		}
		file := b.String()
		for i := range len(file) {
			changed := []byte(file)
			changed[i] ^= 1 << (i % 7)
			v, err := audit.VerifyExport(strings.NewReader(string(changed)), int64(len(changed)), audit.Options{Keys: keysOf(t, 1)})
			if err == nil && v.Valid {
				t.Errorf("%s: byte %d (%q) can be changed", format, i, fmt.Sprintf("%.20s", file[i:]))
			}
		}
	}
	w.stop()
}
