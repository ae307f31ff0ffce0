package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"github.com/go-json-experiment/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/modfile"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// running opens a store and a ledger that runs until the test ends.
func running(t *testing.T, path string) (*Store, *ledger.Ledger) {
	t.Helper()
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), s, ledger.Options{Origin: "files.example/log"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, l
}

func post(t *testing.T, l *ledger.Ledger, id string) error {
	t.Helper()
	if _, err := l.Admit(t.Context(), ledger.Admission{TaskID: asap.TaskID(id), EnvelopeID: asap.EnvelopeID(id), Consumer: "urn:asap:agent:c",
		Agent: "urn:asap:agent:a", Skill: "echo"}); err != nil {
		return err
	}
	_, err := l.Settle(t.Context(), ledger.Settlement{TaskID: asap.TaskID(id), Answer: make([]byte, 3000),
		Record: metering.Record{Outcome: metering.Completed, Evidence: metering.Observed}})
	return err
}

func TestSecondWriterIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "asap.db")
	s, l := running(t, path)
	if s.Path() != path {
		t.Errorf("path %q", s.Path())
	}
	if err := post(t, l, "one"); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path, Options{})
	locked, ok := errors.AsType[*LockedError](err)
	if want := fmt.Sprintf("%s is in use by process %d", path, os.Getpid()); !ok || locked.Error() != want || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want %q", err, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	// A reader is let in, sees what was committed, and cannot write.
	r, err := OpenReadOnly(t.Context(), path, Options{Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if list, err := r.ListUsage(t.Context(), metering.Filter{TaskID: "one"}, metering.Page{Limit: 1}); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := r.Update(t.Context(), func(ledger.Tx) error { return nil }); !errors.Is(err, ErrReadOnly) {
		t.Errorf("update: %v", err)
	}
	if _, err := r.readers.ExecContext(t.Context(), "DELETE FROM answers"); err == nil {
		t.Error("the read pool can write")
	}
}

func TestReadOnlyOfAStoppedNode(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "asap.db")
	if _, err := OpenReadOnly(t.Context(), path, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	t.Run("node", func(t *testing.T) {
		_, l := running(t, path)
		if err := post(t, l, "one"); err != nil {
			t.Fatal(err)
		}
	})
	r, err := OpenReadOnly(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := r.UsageStats(t.Context())
	if err != nil || stats.Records != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}

	empty := filepath.Join(dir, "empty.db")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(t.Context(), empty, Options{}); err == nil || !strings.Contains(err.Error(), "older schema") {
		t.Errorf("an empty file: %v", err)
	}
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(t.Context(), junk, Options{}); err == nil {
		t.Error("junk was opened")
	}
	if _, err := Open(t.Context(), junk, Options{}); err == nil || !strings.Contains(err.Error(), "damaged or no database") {
		t.Errorf("junk: %v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "missing", "asap.db"), Options{}); err == nil || !strings.Contains(err.Error(), "must exist and be writable") {
		t.Errorf("no directory: %v", err)
	}
}

// A full disk is played by a limit on the pages of the file.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "asap.db")
	s, l := running(t, path)
	if err := post(t, l, "before"); err != nil {
		t.Fatal(err)
	}
	pages, err := s.writer.one("PRAGMA page_count")
	if err != nil {
		t.Fatal(err)
	}
	limit := func(n int64) {
		s.write.Lock()
		defer s.write.Unlock()
		if err := s.writer.script(fmt.Sprintf("PRAGMA max_page_count = %d", n)); err != nil {
			t.Fatal(err)
		}
	}
	limit(pages.(int64))
	var failed error
	n := 0
	for ; n < 100 && failed == nil; n++ {
		failed = post(t, l, fmt.Sprintf("full-%d", n))
	}
	if !errors.Is(failed, ledger.ErrUnavailable) || errors.Is(failed, ledger.ErrOutcomeUnknown) || !strings.Contains(failed.Error(), "no space left") {
		t.Fatalf("on a full disk: %v", failed)
	}
	held, _, err := s.Holds(t.Context())
	if err != nil || held > 1 {
		t.Errorf("%d held, %v", held, err)
	}
	limit(1 << 30)
	if err := post(t, l, fmt.Sprintf("full-%d", n-1)); err != nil && !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("with space again: %v", err)
	}
	if err := post(t, l, "after"); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

// What an accident or a hand on the database can do to the log: nothing.
func TestGuards(t *testing.T) {
	path := filepath.Join(t.TempDir(), "asap.db")
	_, l := running(t, path)
	for _, id := range []string{"one", "two"} {
		if err := post(t, l, id); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range []string{
		`UPDATE audit_entries SET actor = 'x' WHERE seq = 1`,
		`DELETE FROM audit_entries WHERE seq = 5`,
		`DELETE FROM audit_entries`,
		`REPLACE INTO audit_entries SELECT seq, id, timestamp_us, event_type, 'x', subject, octets, hash FROM audit_entries WHERE seq = 1`,
		`INSERT INTO audit_entries SELECT * FROM audit_entries WHERE seq = 1 ON CONFLICT DO UPDATE SET actor = 'x'`,
		`UPDATE usage_records SET octets = x'00'`,
		`DELETE FROM usage_records`,
		`REPLACE INTO usage_records SELECT * FROM usage_records WHERE seq = 1`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err == nil {
			t.Errorf("went through: %s", statement)
		}
	}
	var entries, records int
	if err := db.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM audit_entries WHERE actor <> 'x'), (SELECT count(*) FROM usage_records)`).Scan(&entries, &records); err != nil || entries != 6 || records != 2 {
		t.Errorf("%d entries and %d records are left, %v", entries, records, err)
	}
}

// Readers answer from the octets; a writer refuses to go on from a head that is
// not there.
func TestTamperedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "asap.db")
	s, l := running(t, path)
	if err := post(t, l, "one"); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tamper := func(statement string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	tamper(`DROP TRIGGER audit_entries_no_update`)
	tamper(`DROP TRIGGER audit_entries_no_delete`)
	tamper(`UPDATE audit_entries SET actor = 'urn:asap:agent:liar' WHERE seq = 1`)
	tamper(`INSERT INTO audit_blocks VALUES ('urn:asap:agent:liar', 0)`)
	if list, _, err := s.ListAudit(t.Context(), audit.Filter{Actor: "urn:asap:agent:liar"}, 0, 10); err != nil || len(list) != 0 {
		t.Errorf("the lie is served: %v, %v", list, err)
	}
	if list, _, err := s.ListAudit(t.Context(), audit.Filter{Actor: "urn:asap:agent:a"}, 0, 10); err != nil || len(list) != 2 {
		t.Errorf("the truth is not served: %v, %v", list, err)
	}
	tamper(`UPDATE audit_entries SET octets = x'7b7d' WHERE seq = 0`)
	if _, _, err := s.ListAudit(t.Context(), audit.Filter{}, 0, 10); !errors.Is(err, errDamaged) {
		t.Errorf("octets that are no entry: %v", err)
	}
	tamper(`DELETE FROM audit_entries WHERE seq = 2`)
	if err := post(t, l, "two"); !errors.Is(err, ledger.ErrUnavailable) || !errors.Is(err, errDamaged) {
		t.Errorf("appending to a cut log: %v", err)
	}
}

func TestMigrations(t *testing.T) {
	steps, err := readMigrations(migrations)
	if err != nil {
		t.Fatal(err)
	}
	more := append(append([]migration{}, steps...), migration{number: int64(len(steps) + 1), name: "0002_more.sql", sql: "CREATE TABLE more (n INTEGER) STRICT"})
	open := func(path string) *conn {
		t.Helper()
		c, err := openConn(fileDSN(path, ""))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.close() })
		return c
	}
	path := filepath.Join(t.TempDir(), "asap.db")
	c := open(path)
	for range 2 { // the second time there is nothing to do
		if err := migrate(c, steps, 1); err != nil {
			t.Fatal(err)
		}
	}
	broken := append(append([]migration{}, steps...), migration{number: int64(len(steps) + 1), name: "0002_broken.sql", sql: "CREATE TABLE more (n INTEGER) STRICT; nonsense"})
	if err := migrate(c, broken, 1); err == nil || !strings.Contains(err.Error(), "0002_broken.sql") {
		t.Errorf("a broken step: %v", err)
	}
	if err := migrate(c, more, 1); err != nil {
		t.Errorf("after a broken step nothing of it may be left: %v", err)
	}
	if err := migrate(c, steps, 1); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("a newer schema: %v", err)
	}
	changed := append([]migration{}, more...)
	changed[0].sum[0]++
	if err := migrate(c, changed, 1); !errors.Is(err, ErrSchemaChanged) {
		t.Errorf("a changed step: %v", err)
	}
	if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("open: %v", err)
	}
	if _, err := OpenReadOnly(t.Context(), path, Options{}); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("open to read: %v", err)
	}
	for _, name := range []string{"0002_gap.sql", "x.sql"} {
		if _, err := readMigrations(fstest.MapFS{"migrations/" + name: {}}); err == nil {
			t.Errorf("%s was taken as the first step", name)
		}
	}
}

func TestPragmasAreReadBack(t *testing.T) {
	c, err := openConn(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := configure(c, "wal"); err == nil || !strings.Contains(err.Error(), "journal_mode is memory, want wal") {
		t.Errorf("a journal that cannot be had: %v", err)
	}
}

func TestCancelledReader(t *testing.T) {
	s, _ := running(t, filepath.Join(t.TempDir(), "asap.db"))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("caller went away")
	cancel(why)
	if _, err := s.UsageStats(ctx); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	for _, err := range s.ExportUsage(ctx, metering.Filter{}) {
		if !errors.Is(err, why) {
			t.Errorf("%v", err)
		}
	}
	if agent, _, err := s.PriceList(t.Context(), "unknown"); !errors.Is(err, sql.ErrNoRows) || agent != "" {
		t.Errorf("%v", err)
	}
}

// The driver is translated C: it works with the libc it was translated for, and
// no other.
func TestLibcIsTheDriversOwn(t *testing.T) {
	var driver, libc struct{ Version, GoMod string }
	for path, into := range map[string]any{"modernc.org/sqlite": &driver, "modernc.org/libc": &libc} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-json", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, into); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(driver.GoMod)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(driver.GoMod, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if r.Mod.Path == "modernc.org/libc" && r.Mod.Version != libc.Version {
			t.Errorf("modernc.org/libc is %s, the driver needs exactly %s: pin it in go.mod", libc.Version, r.Mod.Version)
		}
	}
}
