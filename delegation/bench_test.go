package delegation

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkVerifyUncached is P5: a token of n links against n calls of
// crypto/ed25519.Verify, taken in turns. "x-floor" is the ratio of the medians,
// to be at most 1.15.
func BenchmarkVerifyUncached(b *testing.B) {
	policy := testPolicy(b)
	for _, n := range []int{1, 3, 8} {
		b.Run(fmt.Sprintf("links=%d", n), func(b *testing.B) {
			token, query := chainOf(b, n), ask(path[n], ScopeTaskExecute)
			var in parsed
			if r := in.parse(token, nil); r != nil {
				b.Fatal(r)
			}
			keys := make([]ed25519.PublicKey, n)
			for i := range keys {
				keys[i] = publicOf(path[i])
			}
			var own, floor []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				if _, err := Verify(token, policy, query); err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				for i, key := range keys {
					if !ed25519.Verify(key, in.signed[i], in.signatures[i][:]) {
						b.Fatal("does not verify")
					}
				}
				own, floor = append(own, middle.Sub(start)), append(floor, time.Since(middle))
			}
			b.ReportMetric(float64(median(own))/float64(median(floor)), "x-floor")
			b.ReportMetric(float64(median(own)), "ns-verify/op")
		})
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkVerifyCached is P6: a token seen before, 100,000 revocations loaded.
// An operation is a batch; "ns-verify/op" is the median time of one verification.
func BenchmarkVerifyCached(b *testing.B) {
	policy := testPolicy(b)
	revoked := NewRevocationSet()
	for i := range 100_000 {
		revoked.Add(agentA, "del_revoked_"+strconv.Itoa(i))
	}
	policy.Revoked = revoked.Revoked
	verifier := NewVerifier(*policy)
	for _, n := range []int{1, 3, 8} {
		b.Run(fmt.Sprintf("links=%d", n), func(b *testing.B) {
			token, query := chainOf(b, n), ask(path[n], ScopeTaskExecute)
			var took []time.Duration // of batches, so that a median is free of preemption
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				for range cachedBatch {
					if _, err := verifier.Verify(token, query); err != nil {
						b.Fatal(err)
					}
				}
				took = append(took, time.Since(start))
			}
			b.ReportMetric(float64(median(took))/cachedBatch, "ns-verify/op")
		})
	}
}

const cachedBatch = 100
