package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// bench is one run of everything.
type bench struct {
	out   io.Writer
	root  string // of the repository
	self  string // this program, which is also the servers it measures
	quick bool
	dry   bool
	// profile, if not empty, is a file for the CPU profile of the node in P1.
	profile string
}

// row is a line of the table: what is to be reached, and how it is measured.
type row struct {
	id, work, against, target string
	command                   string // how to run it alone
	measure                   func(context.Context, *bench) (outcome, error)
}

// outcome is what came out of a row.
type outcome struct {
	Reached string  `json:"reached"` // for the table
	Met     verdict `json:"met"`
	Charts  []chart `json:"charts,omitzero"`
	// Details are lines below the table: what the charts show, and figures that
	// are context.
	Details []string `json:"details,omitzero"`

	At      time.Time `json:"at"`
	Machine string    `json:"machine"`
	Load    string    `json:"load"` // load average of the machine before and after
	Nice    int       `json:"nice,omitzero"`
	Quick   bool      `json:"quick,omitzero"`
	Took    string    `json:"took"`
}

// verdict tells whether the target was reached.
type verdict string

const (
	met       verdict = "met"
	missed    verdict = "not met"
	partly    verdict = "met in part"
	unknown   verdict = "not measured"
	noVerdict verdict = ""
)

// metIf is the verdict of conditions.
func metIf(conditions ...bool) verdict {
	switch {
	case !slices.Contains(conditions, false):
		return met
	case slices.Contains(conditions, true):
		return partly
	}
	return missed
}

// resultsFile keeps what was measured, so that a row can be measured alone.
const resultsFile = "docs/benchmarks/results.json"

// all measures the wanted rows (none: every row) and writes the page.
func (b *bench) all(ctx context.Context, wanted map[string]bool) error {
	results := map[string]outcome{}
	switch text, err := os.ReadFile(filepath.Join(b.root, resultsFile)); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(text, &results); err != nil {
			return fmt.Errorf("%s: %w", resultsFile, err)
		}
	}
	var failed error
	everything := len(wanted) == 0
	for _, r := range rows() {
		if !everything && !wanted[r.id] {
			continue
		}
		delete(wanted, r.id)
		fmt.Fprintf(b.out, "--- %s %s\n", r.id, r.work)
		begun, before := time.Now(), loadAverage()
		got, err := r.measure(ctx, b)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			failed = errors.Join(failed, fmt.Errorf("%s: %w", r.id, err))
			fmt.Fprintf(b.out, "%s failed: %v\n", r.id, err)
			continue
		}
		got.At, got.Machine, got.Load, got.Quick = begun.UTC().Truncate(time.Second), machine(), before+" → "+loadAverage(), b.quick
		got.Nice = niceness()
		got.Took = time.Since(begun).Round(time.Second).String()
		results[r.id] = got
		fmt.Fprintf(b.out, "%s: %s: %s (%s)\n", r.id, got.Met, got.Reached, got.Took)
		for _, d := range got.Details {
			fmt.Fprintf(b.out, "    %s\n", d)
		}
		if err := b.write(results); err != nil {
			return errors.Join(failed, err)
		}
	}
	if len(wanted) > 0 {
		failed = errors.Join(failed, fmt.Errorf("no such rows: %v", slices.Sorted(maps.Keys(wanted))))
	}
	return failed
}

// write writes what was measured, the page and its charts.
func (b *bench) write(results map[string]outcome) error {
	if b.dry {
		return nil
	}
	text, err := json.Marshal(results, json.Deterministic(true), jsontext.WithIndent(" "))
	if err != nil {
		return err
	}
	dir := filepath.Join(b.root, "docs/benchmarks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.root, resultsFile), append(text, '\n'), 0o644); err != nil {
		return err
	}
	notes, err := os.ReadFile(filepath.Join(b.root, "bench/notes.md"))
	if err != nil {
		return err
	}
	for id, o := range results {
		for i, c := range o.Charts {
			if err := os.WriteFile(filepath.Join(dir, chartFile(id, i)), []byte(c.svg()), 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(b.root, "docs/benchmarks.md"), page(rows(), results, string(notes)), 0o644)
}

// rounds is how often A and B are taken in turn.
func (b *bench) rounds() int {
	if b.quick {
		return 3
	}
	return 5
}

// loadAverage is how many processes wanted to run lately, "" where the system
// does not tell.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

// niceness is the priority at which this process runs: below 0 it goes before
// others of the machine. 0 where the system does not tell.
func niceness() int {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	_, fields, _ := strings.Cut(string(stat), ") ")
	if parts := strings.Fields(fields); len(parts) > 16 {
		n, _ := strconv.Atoi(parts[16]) // a number, by the format
		return n
	}
	return 0
}

// machine says on what was measured.
func machine() string {
	name := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s, %s", runtime.NumCPU(), name, runtime.GOOS, runtime.Version())
}

// goTool runs the go command in a directory of the repository and returns what
// it printed.
func (b *bench) goTool(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = filepath.Join(b.root, dir), append(os.Environ(), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("go %s: %w\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return out, nil
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// spread is the lowest and the highest value.
func spread(values []float64) (low, high float64) { return slices.Min(values), slices.Max(values) }
