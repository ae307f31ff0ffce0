package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/internal/load"
)

// TestMain lets the tests start this program's servers as processes of their own.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "serve" {
		main()
		return
	}
	m.Run()
}

// Every contender of P1 does its task, and what the node served it has recorded.
func TestContenders(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{out: io.Discard, self: self, root: t.TempDir(), quick: true}
	contenders, python := b.contenders()
	if python {
		t.Error("there is no Python here")
	}
	for _, c := range contenders {
		s, err := c.start(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(c.name, err)
		}
		r, err := load.Run(t.Context(), load.Plan{Tasks: 200, Connections: connections, Do: s.do})
		if err != nil || r.Done != 200 {
			t.Errorf("%s: %d done, %v, %v", c.name, r.Done, r.Failed(), err)
		}
		if s.target != nil {
			got, err := s.target.Accounts(t.Context())
			if err != nil || got.Recorded != 200 || !got.AuditValid || got.AuditEntries < 600 {
				t.Errorf("%s: %+v, %v", c.name, got, err)
			}
		}
		s.end()
		if err := s.process.Stop(); err != nil {
			t.Error(c.name, err)
		}
	}
}

// Every contender of P5 accepts its token, and refuses it when it has expired.
func TestVerifications(t *testing.T) {
	works, err := verifications(3, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range works {
		if err := w.do(); err != nil {
			t.Error(w.name, err)
		}
	}
}

// A chart is XML, names every bar and is drawn for light and dark pages.
func TestChart(t *testing.T) {
	c := chart{Title: "a < b & c", Unit: "µs", Line: 1.15, LineName: "goal", Bars: []bar{{"ours", 1.05, true}, {`"theirs"`, 2.5e6, false}, {"none", 0, false}}}
	text := c.svg()
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"prefers-color-scheme: dark", "a &lt; b &amp; c", ">1.05 µs<", ">2.50 M µs<", "goal"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// The page has a line for every row, measured or not, and shows the charts.
func TestPage(t *testing.T) {
	all := rows()
	got := string(page(all, map[string]outcome{"P5": {Reached: "1.05", Met: met, Machine: "here", Charts: []chart{{Title: "t", Bars: []bar{{Name: "a"}}}}}}, "## Notes\n\nwhy"))
	for _, r := range all {
		if !strings.Contains(got, "| "+r.id+" | "+r.work) {
			t.Errorf("no row for %s", r.id)
		}
		if r.command == "" || r.target == "" || r.against == "" || r.measure == nil {
			t.Errorf("%s is not complete", r.id)
		}
	}
	for _, want := range []string{"(benchmarks/p5.svg)", "**met**", "**not measured**", "## Notes\n\nwhy\n", "here (rows P5)"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}

// What was measured is kept, and a row that is measured alone leaves the others
// as they were.
func TestResultsAreKept(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"bench", "docs"} {
		if err := os.Mkdir(root+"/"+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/bench/notes.md", []byte("## Notes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	b := &bench{out: &out, root: root, quick: true}
	if err := b.write(map[string]outcome{"P1": {Reached: "from before", Met: met}}); err != nil {
		t.Fatal(err)
	}
	if err := b.all(t.Context(), map[string]bool{"P5": true}); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(root + "/docs/benchmarks.md")
	if err != nil || !strings.Contains(string(page), "from before") || !strings.Contains(string(page), "benchmarks/p5-3.svg") || !strings.Contains(out.String(), "P5: ") {
		t.Errorf("%v\n%s\n%s", err, page, out.String())
	}
	if err := b.all(t.Context(), map[string]bool{"P99": true}); err == nil {
		t.Error("P99 is no row")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.all(ctx, map[string]bool{"P5": true}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The logs beside P11 take entries from many at once and verify.
func TestEvidenceLogs(t *testing.T) {
	b := &bench{quick: true}
	entries := make([][]byte, 200)
	for i := range entries {
		entries[i] = entryOf(i)
	}
	for name, open := range map[string]func(context.Context, string) (*evidenceLog, error){"ours": openOwn, "tessera": openTessera, "immudb": openImmudb} {
		rate, ratio, err := b.appendAndVerify(t.Context(), open, entries)
		if err != nil || rate <= 0 || (ratio > 0) != (name != "ours") {
			t.Errorf("%s: %v, %v, %v", name, rate, ratio, err)
		}
	}
}

// What go test -bench prints is read: names without the number of processors,
// all units, every run.
func TestParseMetrics(t *testing.T) {
	m := parseMetrics([]byte("goos: linux\nBenchmarkX/a=1,b-2 \t 100\t 12.5 ns/op\t 3 x-floor\nBenchmarkX/a=1,b-2 \t 100\t 7.5 ns/op\t 5 x-floor\nBenchmarkY-16 1 0 ns/op 1e3 /s\nPASS\nok \tx\t1s\n"))
	v, err := m.medians("X/a=1,b", "ns/op", "x-floor")
	if err != nil || v[0] != 12.5 || v[1] != 5 {
		t.Error(v, err)
	}
	if rate, err := m.median("Y", "/s"); err != nil || rate != 1000 {
		t.Error(rate, err)
	}
	if _, err := m.median("Y", "allocs/op"); err == nil {
		t.Error("an absent metric is found")
	}
}
