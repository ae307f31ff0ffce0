package auditlog_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

const origin = "urn:asap:agent:node"

// testKey is a key of the tests' own; 1 is the node's.
func testKey(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "auditlog test key %d", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func vkeyOf(t testing.TB, n int) string {
	t.Helper()
	vkey, err := audit.FormatVKey(origin, testKey(n).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

func keysOf(t testing.TB, n int) audit.Keys {
	t.Helper()
	keys, err := audit.ParseKeys(vkeyOf(t, n))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// world is a data directory with a running ledger and a sealer that seals when
// it is told to.
type world struct {
	t      testing.TB
	dir    string
	store  *sqlite.Store
	ledger *ledger.Ledger
	log    *auditlog.Log
	sealer *auditlog.Sealer
	logged *bytes.Buffer
	stop   func()
}

func database(dir string) string { return filepath.Join(dir, "asap.db") }
func signer(dir string) *audit.SignerFile {
	return audit.NewSignerFile(filepath.Join(dir, "audit-signer.json"))
}

// open runs a ledger on a data directory.
func open(t testing.TB, dir string) *world {
	t.Helper()
	w := &world{t: t, dir: dir, logged: &bytes.Buffer{}}
	var err error
	if w.store, err = sqlite.Open(t.Context(), database(dir), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	file := signer(dir)
	w.log = auditlog.New(w.store, origin, vkeyOf(t, 1), file)
	if err := auditlog.Begin(t.Context(), w.log, file.Create); err != nil {
		t.Fatal(err)
	}
	if w.ledger, err = ledger.Open(t.Context(), w.store, ledger.Options{Origin: origin}); err != nil {
		t.Fatal(err)
	}
	sign, err := audit.NewSigner(origin, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	w.sealer = auditlog.NewSealer(w.log, w.ledger, slog.New(slog.NewTextHandler(w.logged, nil)), sign)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.ledger.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the ledger ended with %v", err)
		}
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(w.stop)
	return w
}

var eventTypes = []string{audit.TaskStarted, audit.TaskCompleted, audit.UsageRecorded, audit.TaskFailed, audit.DelegationCreated,
	audit.DelegationRevoked, audit.SLABreach, audit.ConfigChanged, audit.RetentionChanged, audit.KeyRotated}

func event(i int) audit.Event {
	return audit.Event{Type: eventTypes[i%len(eventTypes)], Actor: "urn:asap:agent:alice", Subject: fmt.Sprintf("task_%d", i/3),
		Parties: []string{"urn:asap:agent:alice", "urn:asap:agent:bob"}, Details: jsontext.Value(fmt.Sprintf(`{"n":%d,"skill":"summarize"}`, 1_000_000+i))}
}

// grow appends events up to a size and seals.
func (w *world) grow(size int) {
	w.t.Helper()
	from, err := w.size()
	if err != nil {
		w.t.Fatal(err)
	}
	for from < size {
		n := min(500, size-from)
		events := make([]audit.Event, n)
		for i := range events {
			events[i] = event(from + i)
		}
		if _, err := w.ledger.Append(w.t.Context(), events...); err != nil {
			w.t.Fatal(err)
		}
		from += n
	}
	if err := w.sealer.Seal(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) size() (n int, err error) {
	err = w.store.ReadAudit(w.t.Context(), func(s auditlog.Snapshot) error {
		stored, err := s.Stored()
		n = int(stored.Rows)
		return err
	})
	return n, err
}

// thousand makes the published fixture in a directory: 1,000 entries, checkpoints
// at 256, 512, 768 and 1000. It returns a copy of the database as it was at 990.
func thousand(t testing.TB, dir string) (older string) {
	t.Helper()
	w := open(t, dir)
	for _, size := range []int{256, 512, 768} {
		w.grow(size)
	}
	events := make([]audit.Event, 0, 222)
	for i := 768; i < 990; i++ {
		events = append(events, event(i))
	}
	if _, err := w.ledger.Append(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	w.stop()
	older = filepath.Join(dir, "older.db")
	copyFile(t, database(dir), older)
	w = open(t, dir)
	w.grow(1000)
	w.stop()
	return older
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// attack changes a database as somebody with its file can.
func attack(t testing.TB, path string, f func(db *sql.DB)) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	f(db)
}

func exec(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// dropGuards removes every trigger.
func dropGuards(t testing.TB, db *sql.DB) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT name FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var drops []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		drops = append(drops, "DROP TRIGGER "+name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	exec(t, db, drops...)
}

// reader opens the log of a data directory as an auditor does who can see the
// signer's memory.
func reader(t testing.TB, dir string) (*auditlog.Log, *sqlite.Store) {
	t.Helper()
	store, err := sqlite.OpenReadOnly(t.Context(), database(dir), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return auditlog.New(store, origin, vkeyOf(t, 1), signer(dir)), store
}
