package audit

import (
	"bytes"
	"crypto/sha256"
	"testing"
	"time"
)

// BenchmarkVerify measures verification of an export and of a database against
// SHA-256 of the same bytes. The figure that counts is the ratio: each round
// does all three, and the fastest of each is compared, because machines are
// shared; a round is short enough to pass without being interrupted.
func BenchmarkVerify(b *testing.B) {
	l := newLog(b, goldenOrigin, 1)
	var seals []int
	const n = 4096
	for i := 1024; i <= n; i += 1024 {
		seals = append(seals, i)
	}
	l.grow(b, n, seals...)
	file := l.export(b, JSONL)
	r := bytes.NewReader(file)
	o := l.pinned()
	best := [3]time.Duration{1 << 60, 1 << 60, 1 << 60}
	timed := func(i int, f func()) {
		start := time.Now()
		f()
		best[i] = min(best[i], time.Since(start))
	}
	b.ReportAllocs()
	for b.Loop() {
		timed(0, func() {
			if v, err := VerifyExport(r, int64(len(file)), o); err != nil || !v.Valid {
				b.Fatal(v, err)
			}
		})
		timed(1, func() {
			if v, err := Verify(l.source(), o); err != nil || !v.Valid {
				b.Fatal(v, err)
			}
		})
		timed(2, func() { sha256.Sum256(file) })
	}
	b.ReportMetric(float64(best[0])/float64(best[2]), "export/sha256")
	b.ReportMetric(float64(best[1])/float64(best[2]), "database/sha256")
	b.ReportMetric(float64(best[0].Nanoseconds())/n, "export-ns/entry")
	b.ReportMetric(float64(best[2].Nanoseconds())/n, "sha256-ns/entry")
}
