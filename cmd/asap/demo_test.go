package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/node"
	"github.com/go-json-experiment/json"
)

// A claim that cannot fail claims nothing: after one run, each is told lies.
func TestDemoClaimsCanFail(t *testing.T) {
	t.Parallel()
	a, out, _ := testApp(t, nil)
	a.json = true
	d := &demo{a: a, dir: filepath.Join(t.TempDir(), "story")}
	if err := d.run(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 0 {
		t.Errorf("with --json the story is told besides: %.200s", out)
	}
	text, err := json.Marshal(d.report)
	var report demoReport
	if err != nil || json.Unmarshal(text, &report) != nil || len(report.Acts) != 8 || len(report.Next) != 3 {
		t.Fatalf("report: %v %s", err, text)
	}
	if report.Passed < 12 || report.Failed != 0 || len(report.Claims) != report.Passed {
		t.Fatalf("%d claims passed, %d failed: %+v", report.Passed, report.Failed, report.Claims)
	}

	books, answered, refused, told, found := *d.books, d.answered, d.refused, d.told, d.forgery
	loop, revoked := d.grants["loop"], d.grants["revoked"]
	lies := map[string]func(){
		"log-whole":    func() { d.books.log = d.books.log[1:] },
		"receipts":     func() { d.answered[3].receipt = &client.Receipt{Seq: 1} },
		"metered-once": func() { d.answered = d.answered[1:] },
		"retry-free":   func() { d.answered[0].task = "task_other" },
		"prices":       func() { d.books.log[entryOf(d, audit.UsageRecorded, "")].Details.TokensOut++ },
		"bills":        func() { d.answered[5].tokensIn++ },
		"totals":       func() { d.books.totals.USD = "1" },
		"reconciled":   func() { d.original.Reconciliation = nil },
		"stranger":     func() { d.refused[0].code = "" },
		"cost-cap":     func() { d.books.log[entryOf(d, audit.UsageRecorded, loop.id)].Details.Cost = "1" },
		"not-too-early": func() {
			d.books.log[entryOf(d, audit.UsageRecorded, loop.id)].Details.Cost = "0"
			d.books.log[entryOf(d, audit.UsageRecorded, loop.id)+3].Details.Cost = "0"
		},
		"task-cap":      func() { d.refused = d.refused[:len(d.refused)-demoAfterRevoke-1] },
		"revocation":    func() { d.books.log = append(d.books.log, d.books.log[entryOf(d, audit.TaskStarted, revoked.id)]) },
		"refused-free":  func() { d.books.log = append(d.books.log, d.books.log[entryOf(d, audit.TaskStarted, loop.id)]) },
		"nothing-held":  func() { d.books.used = map[string]demoUsed{} },
		"breach-opened": func() { d.books.log[entryOf(d, audit.SLABreach, "")].Details.Event = "" },
		"breach-ended":  func() { d.books.log = d.books.log[:entryOf(d, audit.SLABreach, "")+1] },
		"breach-told":   func() { d.told = d.told[1:] },
		"log-valid":     func() { d.original.Valid = false },
		"forged-copy":   func() { d.seq++ },
		"rewritten-log": func() { d.rewritten = d.original },
	}
	for _, c := range report.Claims {
		lie, there := lies[c.Name]
		if !there {
			t.Errorf("nobody lies about %s", c.Name)
			continue
		}
		log := append([]logEntry(nil), books.log...)
		fresh := books
		fresh.log = log
		d.books, d.told, d.forgery = &fresh, told, found
		d.answered, d.refused = append([]demoAnswer(nil), answered...), append([]demoRefusal(nil), refused...)
		d.report = demoReport{}
		lie()
		if err := d.check(); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		failed := false
		for _, told := range d.report.Claims {
			failed = failed || told.Name == c.Name && !told.Passed
		}
		if !failed {
			t.Errorf("%s passes whatever happened", c.Name)
		}
	}
}

// entryOf is the position of the first entry of a type, under a delegation if one
// is given.
func entryOf(d *demo, eventType, grant string) int {
	for i, e := range d.books.log {
		if e.Type == eventType && (grant == "" || e.under(grant)) {
			return i
		}
	}
	return -1
}

// An interrupted demo stops its node and leaves what the next one may make anew.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	a, _, _ := testApp(t, nil)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	a.out = whenSaid{"question   tokens in", interrupt}
	dir := filepath.Join(t.TempDir(), "story")
	err := a.demo(ctx, dir, false)
	var status *statusError
	if !errors.As(err, &status) || status.status != exitRefused || !strings.Contains(err.Error(), "interrupted") {
		t.Fatalf("interrupted: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, node.URLFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the node has not stopped: %v", err)
	}
	if err := (&demo{a: a, dir: dir}).mayClear(t.Context()); err != nil {
		t.Errorf("the next demo: %v", err)
	}
}

// whenSaid is a stream that does something when a text is written to it.
type whenSaid struct {
	text string
	do   func()
}

func (w whenSaid) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		w.do()
	}
	return len(p), nil
}
