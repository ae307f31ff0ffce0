package difftest

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/delegation"
)

// BenchmarkOneHop is the peers' part of P5: the same token of one link, all in
// turns. The metric of each is the ratio of its median to that of one
// crypto/ed25519.Verify. Ours also checks root, revocation, audience, scope and
// limits; theirs check the signature and the times.
func BenchmarkOneHop(b *testing.B) {
	token, policy := chainOf(b, 1), newPolicy(b)
	verifier := delegation.NewVerifier(*policy)
	query := delegation.Query{Caller: path[1], Action: delegation.ScopeTaskExecute, Now: now}
	end := strings.LastIndexByte(token, '.')
	signature, err := base64.RawURLEncoding.DecodeString(token[end+1:])
	if err != nil {
		b.Fatal(err)
	}
	key, text := publicOf(path[0]), []byte(token[:end])
	works := []struct {
		name string
		do   func() bool
	}{
		{"floor", func() bool { return ed25519.Verify(key, text, signature) }},
		{"asap-go", func() bool { _, err := delegation.Verify(token, policy, query); return err == nil }},
		{"asap-go-cached", func() bool { _, err := verifier.Verify(token, query); return err == nil }},
		{"golang-jwt", func() bool { _, err := golangJWT(token); return err == nil }},
		{"go-jose", func() bool { _, err := goJoseOnce(token); return err == nil }},
	}
	took := make([][]time.Duration, len(works))
	for b.Loop() {
		for i, w := range works {
			start := time.Now()
			if !w.do() {
				b.Fatal(w.name, "refuses the token")
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	median := func(i int) float64 { slices.Sort(took[i]); return float64(took[i][len(took[i])/2]) }
	floor := median(0)
	b.ReportMetric(floor, "ns-floor")
	for i, w := range works[1:] {
		b.ReportMetric(median(i+1)/floor, w.name+"/floor")
		b.ReportMetric(testing.AllocsPerRun(10, func() { w.do() }), w.name+"-allocs")
	}
}
