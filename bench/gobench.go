package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// metrics are what benchmarks of a package printed: by the name of the benchmark,
// without the number of processors, and the unit, one value for each run.
type metrics map[string]map[string][]float64

// median is that of a metric; an absent one is an error.
func (m metrics) median(name, unit string) (float64, error) {
	values := m[name][unit]
	if len(values) == 0 {
		return 0, fmt.Errorf("benchmark %s has not printed %q", name, unit)
	}
	return median(values), nil
}

// medians are those of several metrics of one benchmark.
func (m metrics) medians(name string, units ...string) ([]float64, error) {
	out := make([]float64, len(units))
	for i, unit := range units {
		var err error
		if out[i], err = m.median(name, unit); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// parseMetrics reads the output of go test -bench.
func parseMetrics(output []byte) metrics {
	m := metrics{}
	lines := bufio.NewScanner(bytes.NewReader(output))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		if m[name] == nil {
			m[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			if value, err := strconv.ParseFloat(fields[i], 64); err == nil {
				m[name][fields[i+1]] = append(m[name][fields[i+1]], value)
			}
		}
	}
	return m
}

// goBench runs benchmarks of a package of the product and reads what they print.
type goBench struct {
	dir, pkg, pattern string
	tags              string
	env               []string
	time              string // -benchtime
	count             int
	limit             time.Duration // for all of it
}

func (b *bench) goBench(ctx context.Context, g goBench) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, g.limit)
	defer cancel()
	out, err := b.goTool(ctx, g.dir, g.env, "test", "-tags", g.tags, "-run", "^$", "-bench", g.pattern, "-benchmem", "-benchtime", g.time,
		"-count", strconv.Itoa(max(1, g.count)), "-timeout", g.limit.String(), g.pkg)
	if err != nil {
		return nil, err
	}
	return parseMetrics(out), nil
}

// pick is long in a whole run and short in a quick one.
func pick[T any](b *bench, long, short T) T {
	if b.quick {
		return short
	}
	return long
}
