package main

import (
	"context"
	"errors"
	"fmt"
	"github.com/go-json-experiment/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// overhead is P2.
func overhead(ctx context.Context, b *bench) (outcome, error) {
	m, err := b.goBench(ctx, goBench{pkg: "./internal/node", pattern: "TaskOverhead$", time: pick(b, "2s", "1s"), count: b.rounds(), limit: 3 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	v, err := m.medians("TaskOverhead", "µs/added", "µs/fsync", "µs/with", "µs/without")
	if err != nil {
		return outcome{}, err
	}
	return outcome{
		Reached: fmt.Sprintf("adds %.2f ms; one fsync %.2f ms", v[0]/1000, v[1]/1000),
		Met:     metIf(v[0] <= 1000+v[1]),
		Charts: []chart{{Title: "P2: median time of one task, one caller (shorter is better)", Unit: "ms",
			Bars: []bar{{"economics on", v[2] / 1000, true}, {"economics off", v[3] / 1000, false}, {"one fsync", v[1] / 1000, false}}}},
		Details: []string{fmt.Sprintf("%.2f ms with, %.2f ms without, over loopback HTTP. A task with economics waits for two commits, admission and settlement, each with its fsync.", v[2]/1000, v[3]/1000)},
	}, nil
}

// settling is P3.
func settling(ctx context.Context, b *bench) (outcome, error) {
	m, err := b.goBench(ctx, goBench{pkg: "./internal/sqlite", pattern: "^BenchmarkSettle64$", time: pick(b, "60000x", "20000x"), count: b.rounds(), limit: 5 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	v, err := m.medians("Settle64", "postings/s", "ratio", "cpu-us/posting", "postings/commit")
	if err != nil {
		return outcome{}, err
	}
	low, high := spread(m["Settle64"]["postings/s"])
	o := outcome{
		Reached: fmt.Sprintf("%.0f postings/s, %.2f of the limit", v[0], v[1]),
		Met:     metIf(v[0] >= 15_000),
		Charts: []chart{{Title: "P3: durable records a second, 64 callers (longer is better)", Unit: "/s", Line: 15_000, LineName: "15,000",
			Bars: []bar{{"asap-go, ledger.Settle", v[0], true}}}},
		Details: []string{fmt.Sprintf("%.0f to %.0f postings/s in the rounds; %.0f µs of CPU a posting, %.0f postings a commit. A posting is a usage record, its totals, two audit entries, the end of the task and its answer.", low, high, v[2], v[3])},
	}
	if answer, err := b.pythonMeasures(ctx, nil); err != nil {
		return o, err
	} else if answer != nil {
		o.Charts[0].Bars = append(o.Charts[0].Bars, bar{Name: "Python release, usage store", Value: answer.Records})
		o.Details = append(o.Details, fmt.Sprintf("The Python release's SQLite usage store, the record alone, 8 at a time (more fail with \"database is locked\"), in the same minute: %.0f records/s.", answer.Records))
	}
	return o, nil
}

// pythonFigures are what bench/python/measure.py prints.
type pythonFigures struct {
	VerifyUS float64 `json:"verify_us"`
	Records  float64 `json:"records_per_second"`
	TaskUS   float64 `json:"task_us"`
}

// pythonMeasures runs the Python release's own work; nil if it is not installed.
func (b *bench) pythonMeasures(ctx context.Context, more []string) (*pythonFigures, error) {
	interpreter := b.interpreter()
	if interpreter == "" {
		return nil, nil //nolint:nilnil // it is not there, which is no error
	}
	dir, err := os.MkdirTemp("", "asap-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	args := append([]string{filepath.Join(b.root, "bench/python/measure.py"), dir, pick(b, "1000", "300")}, more...)
	out, err := exec.CommandContext(ctx, interpreter, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("measure.py: %w", err)
	}
	_, text, ok := strings.Cut(string(out), "ANSWER ")
	if !ok {
		return nil, errors.New("measure.py gave no answer")
	}
	var f pythonFigures
	return &f, json.Unmarshal([]byte(text), &f)
}

// onPostgres runs a benchmark of internal/postgres with one and three nodes; it
// needs the programs of PostgreSQL, as the tests of that package do. The second
// result says why there is none.
func (b *bench) onPostgres(ctx context.Context, pattern, times string) (metrics, string) {
	m, err := b.goBench(ctx, goBench{pkg: "./internal/postgres", tags: "postgres", pattern: pattern, time: times, count: pick(b, 3, 1), limit: 6 * time.Minute})
	switch {
	case ctx.Err() != nil:
		return nil, "interrupted"
	case err != nil:
		text := err.Error()
		return nil, "PostgreSQL: " + text[:min(len(text), 300)]
	case len(m) == 0:
		return nil, "PostgreSQL: no such benchmark"
	}
	return m, ""
}

// settlingOnPostgres is P4.
func settlingOnPostgres(ctx context.Context, b *bench) (outcome, error) {
	m, why := b.onPostgres(ctx, "^BenchmarkSettle64$", pick(b, "8000x", "3000x"))
	if m == nil {
		return outcome{Met: unknown, Reached: "-", Details: []string{why}}, context.Cause(ctx)
	}
	one, err := m.medians("Settle64/nodes=1", "postings/s", "x-insert", "postings/commit")
	if err != nil {
		return outcome{}, err
	}
	three, err := m.medians("Settle64/nodes=3", "postings/s", "x-insert", "postings/commit")
	if err != nil {
		return outcome{}, err
	}
	return outcome{
		Reached: fmt.Sprintf("%.0f postings/s on one node, %.0f on three; %.1f × and %.1f × plain inserts", one[0], three[0], one[1], three[1]),
		Met:     metIf(max(one[0], three[0]) >= 10_000, three[0] >= one[0]),
		Charts: []chart{{Title: "P4: durable postings a second on PostgreSQL, 64 callers (longer is better)", Unit: "/s", Line: 10_000, LineName: "10,000",
			Bars: []bar{{"one node", one[0], true}, {"three nodes", three[0], true}, {"the rows as plain inserts", one[0] / one[1], false}}}},
		Details: []string{fmt.Sprintf("%.0f and %.0f postings a commit. Server, nodes and callers share the machine. Plain inserts: a transaction for each posting on 64 connections, the same tables and indexes, without rules, hash chain and totals.", one[2], three[2])},
	}, nil
}

// verifyCached is P6.
func verifyCached(ctx context.Context, b *bench) (outcome, error) {
	m, err := b.goBench(ctx, goBench{pkg: "./delegation", pattern: "VerifyCached", time: "0.3s", count: b.rounds(), limit: 2 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	inNode, err := b.goBench(ctx, goBench{pkg: "./internal/node", pattern: "AuthorizeCached", time: "0.3s", count: b.rounds(), limit: 2 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	var o outcome
	c := chart{Title: "P6: verification of a token seen before, 100,000 revocations (shorter is better)", Unit: "ns", Line: 500, LineName: "500 ns"}
	var reached []string
	var ok []bool
	for _, links := range []string{"1", "3", "8"} {
		ns, err := m.median("VerifyCached/links="+links, "ns-verify/op")
		if err != nil {
			return o, err
		}
		allocs, err := m.median("VerifyCached/links="+links, "allocs/op")
		if err != nil {
			return o, err
		}
		c.Bars = append(c.Bars, bar{"package, " + links + " links", ns, true})
		reached, ok = append(reached, fmt.Sprintf("%.2f", ns/1000)), append(ok, ns <= 500, allocs == 0)
	}
	ns, err := inNode.median("AuthorizeCached", "ns-authorize/op")
	if err != nil {
		return o, err
	}
	allocs, err := inNode.median("AuthorizeCached", "allocs/op")
	if err != nil {
		return o, err
	}
	c.Bars = append(c.Bars, bar{"in a node, 3 links", ns, true})
	o.Charts, o.Met = []chart{c}, metIf(append(ok, ns <= 500, allocs == 0)...)
	o.Reached = fmt.Sprintf("%s µs for 1 / 3 / 8 links; in a node, 3 links: %.2f µs; no allocations", strings.Join(reached, " / "), ns/1000)
	if allocs != 0 {
		o.Reached = strings.Replace(o.Reached, "no allocations", fmt.Sprintf("%.0f allocations", allocs), 1)
	}
	return o, nil
}

// hotBudget is P7.
func hotBudget(ctx context.Context, b *bench) (outcome, error) {
	m, err := b.goBench(ctx, goBench{pkg: "./internal/sqlite", pattern: "^BenchmarkAdmitSettleChain64$", time: pick(b, "20000x", "6000x"), count: b.rounds(), limit: 6 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	v, err := m.medians("AdmitSettleChain64", "x-row-lock", "postings/s", "cpu-us/posting")
	if err != nil {
		return outcome{}, err
	}
	low, high := spread(m["AdmitSettleChain64"]["x-row-lock"])
	o := outcome{
		Reached: fmt.Sprintf("SQLite %.1f × (%.1f to %.1f); never over a limit", v[0], low, high),
		Met:     metIf(v[0] >= 10),
		Charts: []chart{{Title: "P7: tasks a second on one budget of three links, 64 callers, SQLite (longer is better)", Unit: "/s",
			Bars: []bar{{"asap-go, admit + settle", v[1], true}, {"a transaction for each call", v[1] / v[0], false}}}},
		Details: []string{fmt.Sprintf("%.0f tasks/s, %.0f µs of CPU a task. The baseline does without usage, audit log and answers. That no limit is passed is what tests hold (internal/node: TestLimitsBesideAModel, storetest), not this figure.", v[1], v[2])},
	}
	pg, why := b.onPostgres(ctx, "^BenchmarkAdmitSettleChain64$", pick(b, "4000x", "1500x"))
	if pg == nil {
		o.Details = append(o.Details, why)
		return o, context.Cause(ctx)
	}
	one, err := pg.medians("AdmitSettleChain64/nodes=1", "x-row-lock", "postings/s")
	if err != nil {
		return o, err
	}
	three, err := pg.medians("AdmitSettleChain64/nodes=3", "x-row-lock", "postings/s")
	if err != nil {
		return o, err
	}
	o.Reached = strings.Replace(o.Reached, "; never", fmt.Sprintf("; PostgreSQL %.1f × on one node, %.1f × on three; never", one[0], three[0]), 1)
	o.Met = metIf(v[0] >= 10, one[0] >= 10)
	o.Charts = append(o.Charts, chart{Title: "P7: the same on PostgreSQL (longer is better)", Unit: "/s",
		Bars: []bar{{"one node", one[1], true}, {"three nodes", three[1], true}, {"a transaction for each call", one[1] / one[0], false}}})
	return o, nil
}

// sketches is P8.
func sketches(ctx context.Context, b *bench) (outcome, error) {
	m, err := b.goBench(ctx, goBench{dir: "difftest", pkg: ".", pattern: "Sketch", time: pick(b, "0.5s", "0.2s"), count: b.rounds(), limit: 2 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	units := []string{"record/theirs", "merge/theirs", "p95/theirs", "bytes100/theirs", "bytes6000/theirs"}
	v, err := m.medians("Sketch", units...)
	if err != nil {
		return outcome{}, err
	}
	names := []string{"record", "merge 60 × 100", "p95", "bytes, 100 values", "bytes, 6,000 values"}
	c := chart{Title: "P8: latency sketch against sketches-go (shorter is better)", Unit: "×", Line: 1, LineName: "sketches-go"}
	for i, name := range names {
		c.Bars = append(c.Bars, bar{name, v[i], true})
	}
	return outcome{
		Reached: fmt.Sprintf("record %.2f; merge %.2f; p95 %.2f; bytes %.2f (100 values), %.2f (6,000)", v[0], v[1], v[2], v[3], v[4]),
		Met:     metIf(v[0] <= 1, v[1] <= 1, v[2] <= 1, v[3] <= 1, v[4] <= 1), Charts: []chart{c},
		Details: []string{"Both sketches tell every rank within 0.55 % (TestSketchesTellTheSame of difftest)."},
	}, nil
}

// windows is P9.
func windows(ctx context.Context, b *bench) (outcome, error) {
	m, err := b.goBench(ctx, goBench{pkg: "./internal/sla", pattern: "^BenchmarkStatus$", time: pick(b, "3s", "1s"), count: 1, limit: 3 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	v, err := m.medians("Status", "1e6/1e3", "ns-at-1e3")
	if err != nil {
		return outcome{}, err
	}
	return outcome{Reached: fmt.Sprintf("%.2f", v[0]), Met: metIf(v[0] <= 2), Details: []string{fmt.Sprintf("%.1f µs at 10^3 tasks.", v[1]/1000)}}, nil
}

// breachFrames is P10.
func breachFrames(ctx context.Context, b *bench) (outcome, error) {
	m, err := b.goBench(ctx, goBench{pkg: "./internal/node", pattern: "BreachFrames", time: "1x", count: 1, limit: 4 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	v, err := m.medians("BreachFrames", "ms/p50", "ms/p99", "ms/p99-from-offer", "outcomes/s", "ms/storm", "dropped-and-resumed")
	if err != nil {
		return outcome{}, err
	}
	return outcome{
		Reached: fmt.Sprintf("p99 %.0f ms at %.0f outcomes/s; storm of 10,000 breaches told to all in %.1f s, nothing lost", v[1], v[3], v[4]/1000),
		Met:     metIf(v[1] < 100, v[3] >= 19_000),
		Details: []string{fmt.Sprintf("p50 %.1f ms, p99 %.1f ms from the commit (median of three rounds), %.0f ms from when the outcome was offered; %.0f subscribers were dropped and resumed. The benchmark fails if one event is lost or comes twice. Clients, node and store share the machine.", v[0], v[1], v[2], v[5])},
	}, nil
}

// reports is P12.
func reports(ctx context.Context, b *bench) (outcome, error) {
	n := pick(b, 1_000_000, 200_000)
	if text := os.Getenv("ASAP_BENCH_RECORDS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			return outcome{}, err
		}
	}
	m, err := b.goBench(ctx, goBench{pkg: "./internal/node", pattern: "Reports", env: []string{"ASAP_BENCH_RECORDS=" + strconv.Itoa(n)}, time: "1s", count: 1, limit: 30 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	o := outcome{}
	c := chart{Title: fmt.Sprintf("P12: reports over %s records (shorter is better)", thousands(n)), Unit: "ms", Line: 20, LineName: "20 ms"}
	var ok []bool
	var parts []string
	for _, name := range sortedKeys(m) {
		v, err := m.medians(name, "ratio", "ms")
		if err != nil {
			return o, err
		}
		ok = append(ok, v[0] <= 3, v[1] < 20)
		label := strings.TrimPrefix(name, "Reports/")
		c.Bars = append(c.Bars, bar{label, v[1], true})
		parts = append(parts, fmt.Sprintf("%s %.1f × and %.1f ms", strings.TrimPrefix(label, "aggregate?group_by="), v[0], v[1]))
	}
	o.Reached, o.Met, o.Charts = thousands(n)+" records: "+strings.Join(parts, ", "), metIf(ok...), []chart{c}
	o.Details = []string{"Medians of one second each, both data sets asked in turn. Totals are kept as records come, so that the time depends on how many hours, days, agents, consumers and skills a report covers, not on how many records."}
	if n < 10_000_000 {
		o.Details = append(o.Details, "10 million records take longer to write than a run may: ASAP_BENCH_RECORDS=10000000 measures them.")
	}
	return o, nil
}

// exports is P13.
func exports(ctx context.Context, b *bench) (outcome, error) {
	n := pick(b, 1_000_000, 200_000)
	m, err := b.goBench(ctx, goBench{pkg: "./internal/node", pattern: "Export", env: []string{"ASAP_BENCH_RECORDS=" + strconv.Itoa(n)}, time: "1x", count: 1, limit: 15 * time.Minute})
	if err != nil {
		return outcome{}, err
	}
	var o outcome
	c := chart{Title: fmt.Sprintf("P13: memory in use while %s records are exported (shorter is better)", thousands(n)), Unit: "MiB"}
	var parts []string
	var ok []bool
	for _, format := range []string{"csv", "json", "ndjson"} {
		v, err := m.medians("Export/"+format, "MiB-live", "records/s")
		if err != nil {
			return o, err
		}
		c.Bars = append(c.Bars, bar{format, v[0], true})
		parts, ok = append(parts, fmt.Sprintf("%s %.1f MiB", format, v[0])), append(ok, v[0] < 16)
		o.Details = append(o.Details, fmt.Sprintf("%s: %.0f records/s", format, v[1]))
	}
	o.Reached, o.Met, o.Charts = strings.Join(parts, ", ")+" live", metIf(ok...), []chart{c}
	return o, nil
}

func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
