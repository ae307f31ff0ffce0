package audit

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

// BenchmarkVerifyExport measures verification against SHA-256 of the same
// bytes; the figure that counts is the ratio, taken in one loop.
func BenchmarkVerifyExport(b *testing.B) {
	l := newLog(b, goldenOrigin, 1)
	var seals []int
	const n = 50_000
	for i := 1024; i <= n; i += 1024 {
		seals = append(seals, i)
	}
	l.grow(b, n, append(seals, n)...)
	file := l.export(b, JSONL)
	r := bytes.NewReader(file)
	o := l.pinned()
	b.Run("verify", func(b *testing.B) {
		b.SetBytes(int64(len(file)))
		b.ReportAllocs()
		for b.Loop() {
			if v, err := VerifyExport(r, int64(len(file)), o); err != nil || !v.Valid {
				b.Fatal(v, err)
			}
		}
	})
	b.Run("verify-database", func(b *testing.B) {
		b.SetBytes(int64(len(file)))
		b.ReportAllocs()
		for b.Loop() {
			if v, err := Verify(l.source(), o); err != nil || !v.Valid {
				b.Fatal(v, err)
			}
		}
	})
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(int64(len(file)))
		for b.Loop() {
			sha256.Sum256(file)
		}
	})
}
