package auditlog_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/auditlog"
)

// BenchmarkVerify is P11: verification of a log in SQLite and of its export
// against SHA-256 of the same bytes (of the export), taken in turn; the figures
// are medians of ratios. live is the most memory in use while verifying, garbage
// not counted. ASAP_BENCH_ENTRIES sets the number of entries.
func BenchmarkVerify(b *testing.B) {
	n := 100_000
	if text := os.Getenv("ASAP_BENCH_ENTRIES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	w := open(b, dir)
	for size := 0; size < n; {
		size = min(n, size+2500)
		w.grow(size)
	}
	name := filepath.Join(dir, "export.jsonl")
	out, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	if err := w.log.Export(b.Context(), out, audit.JSONL); err != nil {
		b.Fatal(err)
	}
	if err := out.Close(); err != nil {
		b.Fatal(err)
	}
	w.stop()
	file, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		b.Fatal(err)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	log, _ := reader(b, dir)
	keys := keysOf(b, 1)
	var database, export, hash []time.Duration
	timed := func(list *[]time.Duration, f func()) {
		start := time.Now()
		f()
		*list = append(*list, time.Since(start))
	}
	for b.Loop() {
		timed(&hash, func() { sha256.Sum256(content) })
		timed(&database, func() {
			if v, err := log.Verify(b.Context(), auditlog.Check{Keys: keys}); err != nil || !v.Valid {
				b.Fatal(v, err)
			}
		})
		timed(&export, func() {
			if v, err := audit.VerifyExport(file, info.Size(), audit.Options{Keys: keys}); err != nil || !v.Valid {
				b.Fatal(v, err)
			}
		})
	}
	content = nil
	var live uint64
	measure := func(int64, int64) {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		live = max(live, stats.HeapAlloc)
	}
	if _, err := log.Verify(b.Context(), auditlog.Check{Keys: keys, Progress: measure}); err != nil {
		b.Fatal(err)
	}
	ratio := func(list []time.Duration) float64 {
		var all []float64
		for i, d := range list {
			all = append(all, float64(d)/float64(hash[i]))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	b.ReportMetric(ratio(database), "database/sha256")
	b.ReportMetric(ratio(export), "export/sha256")
	b.ReportMetric(float64(slices.Min(database).Nanoseconds())/float64(n), "database-ns/entry")
	b.ReportMetric(float64(slices.Min(hash).Nanoseconds())/float64(n), "sha256-ns/entry")
	b.ReportMetric(float64(live)/(1<<20), "MiB-live")
	b.ReportMetric(0, "ns/op")
}
