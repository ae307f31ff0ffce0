package main

import (
	"context"
	"database/sql"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/go-json-experiment/json"
)

const patientURN = "urn:asap:agent:patient"

// patientDirectory makes the data directory of a node that has done three tasks,
// and has a fourth at work while its ledger is copied. ahead is how far its clock
// was ahead.
func patientDirectory(t *testing.T, ahead time.Duration) string {
	t.Helper()
	working, dir := filepath.Join(t.TempDir(), "working"), filepath.Join(t.TempDir(), "data")
	c := node.Defaults()
	c.Listen, c.Data, c.Agents = "127.0.0.1:0", working, nil
	c.Limits.ShutdownDeadline = node.Duration(time.Millisecond)
	begun := make(chan struct{})
	patient := agent.New(patientURN, "Patient")
	patient.Handle("quick", func(context.Context, *agent.Task) (any, error) { return "done", nil })
	patient.Handle("wait", func(ctx context.Context, _ *agent.Task) (any, error) {
		close(begun)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	n, err := node.Open(t.Context(), c, node.Options{Agents: []*agent.Agent{patient}, Now: func() time.Time { return time.Now().Add(ahead) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	caller, err := client.New(n.URL(), client.WithSender("urn:asap:agent:caller"))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	for range 3 {
		if _, err := caller.Task(t.Context(), client.TaskCall{Recipient: patientURN, Skill: "quick", Timestamp: time.Now().Add(ahead)}); err != nil {
			t.Fatal(err)
		}
	}
	waiting, giveUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = caller.Task(waiting, client.TaskCall{Recipient: patientURN, Skill: "wait", Timestamp: time.Now().Add(ahead)}) // nobody waits for it
	}()
	<-begun
	copyFiles(t, working, dir)
	alter(t, filepath.Join(working, node.LedgerFile), `VACUUM INTO '`+filepath.Join(dir, node.LedgerFile)+`'`)
	alter(t, filepath.Join(dir, node.LedgerFile), "PRAGMA journal_mode = wal")
	giveUp()
	<-gone
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	return dir
}

// copyFiles copies a data directory without its ledger.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), node.LedgerFile) || e.Name() == node.URLFile {
			continue
		}
		copyFile(t, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// alter does to a database what no node does.
func alter(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// The doctor names every condition that it is there for, in words, in its exit
// status and as JSON; and it finds nothing where there is nothing.
func TestDoctorNamesConditions(t *testing.T) {
	base, future := patientDirectory(t, 0), patientDirectory(t, 2*time.Hour)
	off := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-3*time.Hour).UTC().Format(http.TimeFormat))
	}))
	defer off.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	file := func(name string) func(t *testing.T, dir string, change func(path string) error) {
		return func(t *testing.T, dir string, change func(path string) error) {
			t.Helper()
			if err := change(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ledger := func(statements ...string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { alter(t, filepath.Join(dir, node.LedgerFile), statements...) }
	}
	onFile := func(name string, change func(path string) error) func(*testing.T, string) {
		return func(t *testing.T, dir string) { file(name)(t, dir, change) }
	}
	mode := func(m os.FileMode) func(string) error {
		return func(path string) error { return os.Chmod(path, m) }
	}
	overwrite := func(at int64, text string) func(string) error {
		return func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			if _, err := f.WriteAt([]byte(text), at); err != nil {
				return err
			}
			return f.Close()
		}
	}
	for _, c := range []struct {
		name     string
		from     string
		make     func(t *testing.T, dir string)
		flags    []string
		check    string
		severity node.Severity
		says     string
		status   int
	}{
		{"nothing", base, nil, nil, "pages", node.OK, "every page is whole", exitDone},
		{"others may look into the directory", base, onFile(".", mode(0o755)), nil, "data directory", node.Warn, "chmod 700", exitDone},
		{"others may read the key", base, onFile(node.KeyFile, mode(0o644)), nil, node.KeyFile, node.Warn, "mode 0644", exitDone},
		{"the key is gone", base, onFile(node.KeyFile, os.Remove), nil, node.KeyFile, node.Fail, "no such file", exitRefused},
		{"the key is none", base, onFile(node.KeyFile, overwrite(0, "xx")), nil, node.KeyFile, node.Fail, "not an Ed25519 key", exitRefused},
		{"the operator token is gone", base, onFile(node.OperatorTokenFile, os.Remove), nil, node.OperatorTokenFile, node.Fail, "no such file", exitRefused},
		{"no database", base, onFile(node.LedgerFile, overwrite(0, "SQLite for mat 4")), nil, "ledger", node.Fail, "is damaged or no database", exitRefused},
		{"a corrupted page", base, onFile(node.LedgerFile, overwrite(4096*3, strings.Repeat("\xff", 4096))), nil, "pages", node.Fail, "damaged", exitRefused},
		{"another journal mode", base, ledger("PRAGMA journal_mode = delete"), nil, "pages", node.Warn, "journal mode delete", exitDone},
		{"migrations of a newer program", base, ledger("INSERT INTO schema_migrations (number, name, checksum, at_us) SELECT 9999, '9999_later.sql', checksum, at_us FROM schema_migrations LIMIT 1"), nil,
			"ledger", node.Fail, "newer", exitRefused},
		{"an edited migration", base, ledger("UPDATE schema_migrations SET checksum = zeroblob(32) WHERE number = 1"), nil, "ledger", node.Fail, "other migrations", exitRefused},
		{"another head of the chain", base, ledger("UPDATE audit_head SET hash = randomblob(32)"), nil, "audit log", node.Fail, "is not valid", exitRefused},
		{"guards that are gone", base, ledger("DROP TRIGGER audit_entries_no_update"), nil, "audit log", node.Warn, "guards of the database are gone", exitDone},
		{"the signer's memory is lost", base, onFile(node.SignerFile, os.Remove), nil, node.SignerFile, node.Fail, "asap audit adopt", exitRefused},
		{"a clock that went back", future, nil, nil, "clock", node.Fail, "ahead of this machine's clock", exitRefused},
		{"a clock unlike others", base, nil, []string{"--set", "sla.canary=" + off.URL}, "clock", node.Warn, "3h0m", exitDone},
		{"tasks that hold for too long", base, nil, []string{"--set", "limits.task_timeout=1ns"}, "holds", node.Warn, "a restart settles them", exitDone},
		{"an upstream that is gone", base, nil, []string{"--set", "sla.canary=" + gone.URL}, "sla.canary", node.Warn, "cannot be reached", exitDone},
		{"a webhook that is gone", base, nil, []string{"--set", "sla.webhook_url=" + gone.URL, "--set", "sla.webhook_secret=env:ASAP_TEST_HOOK"}, "sla.webhook_url", node.Warn, "cannot be reached", exitDone},
		{"a node that was killed", base, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, node.URLFile), []byte(gone.URL+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "node", node.Warn, "does not answer", exitDone},
		{"no directory", base, func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, nil, "data directory", node.Fail, "is not there", exitRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			copyFiles(t, c.from, dir)
			copyFile(t, filepath.Join(c.from, node.LedgerFile), filepath.Join(dir, node.LedgerFile))
			if c.make != nil {
				c.make(t, dir)
			}
			a, out, errOut := testApp(t, nil)
			status := a.run(t.Context(), append([]string{"doctor", "--json", "--data", dir}, c.flags...))
			var answer struct {
				Findings []node.Finding `json:"findings"`
			}
			if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
				t.Fatalf("%v: %s%s", err, out, errOut)
			}
			named, worst := false, exitDone
			for _, f := range answer.Findings {
				named = named || f.Check == c.check && f.Severity == c.severity && strings.Contains(f.Text, c.says)
				if f.Severity == node.Fail {
					worst = exitRefused
				}
			}
			if !named || status != c.status || status != worst {
				t.Errorf("status %d, want %d with %s %s: %q\n%s", status, c.status, c.severity, c.check, c.says, out)
			}
			a, out, _ = testApp(t, nil)
			if again := a.run(t.Context(), append([]string{"doctor", "--data", dir}, c.flags...)); again != status || !strings.Contains(out.String(), c.says) {
				t.Errorf("for people: status %d\n%s", again, out)
			}
		})
	}
}
