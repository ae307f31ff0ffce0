package difftest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/store"

	"github.com/asap-protocol/asap-go/internal/sla/sketch"
)

// accuracy is that of our sketch, given to theirs too.
const accuracy = 0.0055

func theirSketch(tb testing.TB) *ddsketch.DDSketch {
	m, err := mapping.NewLogarithmicMapping(accuracy)
	if err != nil {
		tb.Fatal(err)
	}
	return ddsketch.NewDDSketch(m, store.NewBufferedPaginatedStore(), store.NewBufferedPaginatedStore())
}

// latencies are n whole milliseconds, log-normal around 200 ms.
func latencies(seed uint64, n int) []int64 {
	r := rand.New(rand.NewPCG(seed, 1))
	all := make([]int64, n)
	for i := range all {
		all[i] = min(sketch.MaxMS, 1+int64(200*math.Exp(r.NormFloat64())))
	}
	return all
}

func record(tb testing.TB, all []int64) (*sketch.Sketch, *ddsketch.DDSketch) {
	ours, theirs := &sketch.Sketch{}, theirSketch(tb)
	for _, ms := range all {
		ours.Record(ms)
		if err := theirs.Add(float64(ms)); err != nil {
			tb.Fatal(err)
		}
	}
	return ours, theirs
}

// Both sketches tell every rank as closely as they promise. (Their quantile q is
// the value of rank 1 + floor(q (n-1)), so they are asked for that.)
func TestSketchesTellTheSame(t *testing.T) {
	for seed := range uint64(20) {
		all := latencies(seed, 1+int(seed*seed*20))
		ours, theirs := record(t, all)
		slices.Sort(all)
		n := len(all)
		for _, rank := range []int{1, (n + 1) / 2, n - n/20, n} {
			exact := float64(all[rank-1])
			got := float64(ours.ValueAtRank(uint64(rank)))
			if math.Abs(got-exact) > accuracy*exact+0.5 {
				t.Errorf("n %d, rank %d: ours tells %v, exactly %v", n, rank, got, exact)
			}
			q := 1.0
			if n > 1 {
				q = (float64(rank-1) + 1e-6) / float64(n-1)
			}
			their, err := theirs.GetValueAtQuantile(min(1, q))
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(their-exact) > accuracy*exact*1.0001 || math.Abs(got-their) > 2*accuracy*exact+0.5 {
				t.Errorf("n %d, rank %d: ours tells %v, theirs %v, exactly %v", n, rank, got, their, exact)
			}
		}
	}
}

// BenchmarkSketch is P8: recording a latency, merging 60 sketches of 100, asking
// for the 95th percentile of the merged ones, in turns. The metric of each is the
// ratio of our median to theirs, and of the bytes that a sketch of 100 and the
// merged one take on disk.
func BenchmarkSketch(b *testing.B) {
	all := latencies(1, 6000)
	var ours []*sketch.Sketch
	var theirs []*ddsketch.DDSketch
	for part := range slices.Chunk(all, 100) {
		o, t := record(b, part)
		ours, theirs = append(ours, o), append(theirs, t)
	}
	var merged sketch.Sketch
	for _, s := range ours {
		merged.Merge(s)
	}
	theirMerged := theirSketch(b)
	for _, s := range theirs {
		if err := theirMerged.MergeWith(s); err != nil {
			b.Fatal(err)
		}
	}
	works := []struct {
		name         string
		ours, theirs func()
	}{
		{"record", func() {
			var s sketch.Sketch
			for _, ms := range all {
				s.Record(ms)
			}
		}, func() {
			s := theirSketch(b)
			for _, ms := range all {
				_ = s.Add(float64(ms))
			}
		}},
		{"merge", func() {
			var s sketch.Sketch
			for _, part := range ours {
				s.Merge(part)
			}
		}, func() {
			s := theirSketch(b)
			for _, part := range theirs {
				_ = s.MergeWith(part)
			}
		}},
		{"p95", func() {
			for range 100 {
				merged.P95()
			}
		}, func() {
			for range 100 {
				_, _ = theirMerged.GetValueAtQuantile(0.95)
			}
		}},
	}
	took := make([][2][]time.Duration, len(works))
	for b.Loop() {
		for i, w := range works {
			for side, do := range []func(){w.ours, w.theirs} {
				start := time.Now()
				do()
				took[i][side] = append(took[i][side], time.Since(start))
			}
		}
	}
	median := func(d []time.Duration) float64 { slices.Sort(d); return float64(d[len(d)/2]) }
	for i, w := range works {
		b.ReportMetric(median(took[i][0])/median(took[i][1]), w.name+"/theirs")
	}
	size := func(s *ddsketch.DDSketch) float64 {
		var data []byte
		s.Encode(&data, true)
		return float64(len(data))
	}
	b.ReportMetric(float64(len(ours[0].Append(nil)))/size(theirs[0]), "bytes100/theirs")
	b.ReportMetric(float64(len(merged.Append(nil)))/size(theirMerged), "bytes6000/theirs")
}
