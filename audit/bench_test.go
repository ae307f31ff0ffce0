package audit

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkVerify measures verification of an export and of a database against
// SHA-256 of the same bytes. The figures that count are ratios, taken in one
// round each, and of these the median; a single round says little on a shared
// machine. The fastest times are context.
func BenchmarkVerify(b *testing.B) {
	for _, n := range []int{4096, 50_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) { benchmarkVerify(b, n) })
	}
}

func benchmarkVerify(b *testing.B, n int) {
	l := newLog(b, goldenOrigin, 1)
	var seals []int
	for i := 1024; i <= n; i += 1024 {
		seals = append(seals, i)
	}
	l.grow(b, n, seals...)
	file := l.export(b, JSONL)
	r := bytes.NewReader(file)
	o := l.pinned()
	var export, database, hash []time.Duration
	timed := func(list *[]time.Duration, f func()) {
		start := time.Now()
		f()
		*list = append(*list, time.Since(start))
	}
	b.ReportAllocs()
	for b.Loop() {
		timed(&export, func() {
			if v, err := VerifyExport(r, int64(len(file)), o); err != nil || !v.Valid {
				b.Fatal(v, err)
			}
		})
		timed(&hash, func() { sha256.Sum256(file) })
		timed(&database, func() {
			if v, err := Verify(l.source(), o); err != nil || !v.Valid {
				b.Fatal(v, err)
			}
		})
	}
	median := func(list []time.Duration) float64 {
		var ratios []float64
		for i, d := range list {
			ratios = append(ratios, float64(d)/float64(hash[i]))
		}
		slices.Sort(ratios)
		return ratios[len(ratios)/2]
	}
	b.ReportMetric(median(export), "export/sha256")
	b.ReportMetric(median(database), "database/sha256")
	b.ReportMetric(float64(slices.Min(export).Nanoseconds())/float64(n), "export-ns/entry")
	b.ReportMetric(float64(slices.Min(hash).Nanoseconds())/float64(n), "sha256-ns/entry")
}
