package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// page writes docs/benchmarks.md. notes are written by hand.
func page(rows []row, results map[string]outcome, notes string) []byte {
	var s strings.Builder
	s.WriteString(`# Benchmarks

<!-- Written by make bench from docs/benchmarks/results.json and bench/notes.md. -->

What is measured, against what, and what came out. A figure is a ratio within one run in which A and B take turns (the median of at least five), or CPU
time or allocations of one operation: such figures hold on a machine that is busy with other things, as this one was: each row says how busy (load average
before and after, on that many cores). Absolute times and rates are context.

`)
	for _, m := range slices.Sorted(maps.Keys(machines(results))) {
		fmt.Fprintf(&s, "- Machine: %s (rows %s).\n", m, strings.Join(machines(results)[m], ", "))
	}
	s.WriteString("- Peers: " + strings.Join(peerVersions(), ", ") + ".\n")
	s.WriteString("- `make bench` measures everything in about 25 minutes, `make bench BENCH=\"-quick\"` in about eight, `make bench BENCH=\"-rows P1,P5\"` some rows.\n\n")
	s.WriteString("| # | work | against | to reach | reached | |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, r := range rows {
		o, ok := results[r.id]
		if !ok {
			o = outcome{Met: unknown, Reached: "-"}
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | **%s** |\n", r.id, r.work, r.against, r.target, o.Reached, o.Met)
	}
	s.WriteString("\n" + strings.TrimSpace(notes) + "\n\n## Each row\n")
	for _, r := range rows {
		o, ok := results[r.id]
		if !ok {
			continue
		}
		quick := ""
		if o.Quick {
			quick = ", short runs"
		}
		fmt.Fprintf(&s, "\n### %s: %s\n\n", r.id, r.work)
		for i, c := range o.Charts {
			fmt.Fprintf(&s, "![%s](benchmarks/%s)\n\n", strings.NewReplacer("[", "(", "]", ")", "\n", " ").Replace(c.alternative()), chartFile(r.id, i))
		}
		for _, d := range o.Details {
			fmt.Fprintf(&s, "- %s\n", d)
		}
		if len(o.Details) > 0 {
			s.WriteString("\n")
		}
		if o.Nice != 0 {
			quick += fmt.Sprintf(", at nice %d", o.Nice)
		}
		fmt.Fprintf(&s, "Measured %s in %s%s; load average of the machine %s. `%s`\n", o.At.Format("2006-01-02 15:04 MST"), o.Took, quick, o.Load, r.command)
	}
	return []byte(s.String())
}

// machines are the machines rows were measured on.
func machines(results map[string]outcome) map[string][]string {
	out := map[string][]string{}
	for _, r := range rows() {
		if o, ok := results[r.id]; ok {
			out[o.Machine] = append(out[o.Machine], r.id)
		}
	}
	return out
}
