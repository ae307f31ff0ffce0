package sketch

import (
	"bytes"
	"math"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Bin i ends at the largest whole number v with v^64 <= 2^i.
func TestBoundsAreExact(t *testing.T) {
	for bin := 1; bin < bins-1; bin++ {
		limit := new(big.Int).Lsh(big.NewInt(1), uint(bin-1))
		power := func(v int64) *big.Int { return new(big.Int).Exp(big.NewInt(v), big.NewInt(perDoubling), nil) }
		if power(table.last[bin]).Cmp(limit) > 0 || power(table.last[bin]+1).Cmp(limit) <= 0 {
			t.Errorf("bin %d ends at %d", bin, table.last[bin])
		}
	}
	if table.last[bins-2] >= MaxMS || table.last[bins-1] < MaxMS {
		t.Errorf("the last two bins end at %d and %d ms, not around %d", table.last[bins-2], table.last[bins-1], MaxMS)
	}
}

// Every latency lands in the bin that holds it, and is told within 0.55 % of what
// it was, or half a millisecond where that is more.
func TestEveryLatencyIsToldClosely(t *testing.T) {
	check := func(ms int64) {
		bin := binOf(ms)
		if ms > table.last[bin] || (bin > 0 && ms <= table.last[bin-1]) {
			t.Fatalf("%d ms is in bin %d, which ends at %d", ms, bin, table.last[bin])
		}
		off := math.Abs(float64(table.value[bin] - ms))
		if off > 0.0055*float64(ms)+0.5 || (ms <= 101 && off != 0) {
			t.Fatalf("%d ms is told as %d", ms, table.value[bin])
		}
	}
	for ms := int64(0); ms <= 300_000; ms++ {
		check(ms)
	}
	for ms := int64(300_000); ms <= MaxMS; ms += 997 {
		check(ms)
	}
	check(MaxMS)
}

func TestNearestRank(t *testing.T) {
	for _, c := range []struct {
		name      string
		latencies []int64
		want      int64
	}{
		{"0 to 99", span(0, 99), 94},
		{"19 fast, 1 slow", append(slices.Repeat([]int64{100}, 19), 10_000), 100},
		{"18 fast, 2 slow", append(slices.Repeat([]int64{100}, 18), 10_000, 10_000), 10_009},
		{"one", []int64{7}, 7},
		{"10 values", []int64{100, 200, 300, 400, 500, 600, 700, 800, 900, 1000}, 997},
		{"1 to 10000", span(1, 10_000), 9_482},
	} {
		var s Sketch
		for _, ms := range c.latencies {
			s.Record(ms)
		}
		slices.Sort(c.latencies)
		exact := c.latencies[(95*len(c.latencies)+99)/100-1]
		got, _ := s.P95()
		if got != c.want || math.Abs(float64(got-exact)) > 0.0055*float64(exact) {
			t.Errorf("%s: p95 %d, want %d (exactly %d)", c.name, got, c.want, exact)
		}
	}
	var empty Sketch
	if _, ok := empty.P95(); ok {
		t.Error("an empty sketch has a p95")
	}
}

func span(from, to int64) (all []int64) {
	for ms := from; ms <= to; ms++ {
		all = append(all, ms)
	}
	return all
}

func TestRanksInEveryForm(t *testing.T) {
	for _, n := range []int64{1, 20, 999, 5_000} {
		var s Sketch
		for i := range n {
			s.Record(i * i % 90_000_000 % MaxMS)
		}
		sum, last := uint64(0), int64(-1)
		for index, k := range s.Bins {
			sum += k
			if value := s.ValueAtRank(sum); value != table.value[index+1] || value < last {
				t.Fatalf("n %d: rank %d is %d, not the value of bin %d", n, sum, value, index)
			}
			last = s.ValueAtRank(sum)
			if got := s.CountAtLeast(last + 1); got != s.Count()-sum {
				t.Fatalf("n %d: %d at least %d, want %d", n, got, last+1, s.Count()-sum)
			}
		}
		if sum != uint64(n) {
			t.Fatalf("bins hold %d of %d", sum, n)
		}
		for range s.Bins {
			break
		}
	}
}

// genSketch draws sketches of every form, with the latencies' bins skewed.
func genSketch(t *rapid.T, label string) *Sketch {
	s := &Sketch{}
	for i := range rapid.SampledFrom([]int{0, 3, 40, 700, 1500}).Draw(t, label+" bins") {
		bin := uint16(i * 3 % bins)
		if i < 50 {
			bin = rapid.Uint16Range(0, bins-1).Draw(t, "bin")
		}
		n := uint64(1 + i%3)
		if i < 5 {
			n = rapid.SampledFrom([]uint64{1, 2, 200, math.MaxUint32, 1 << 40}).Draw(t, "count")
		}
		s.add(bin, n)
	}
	return s
}

func encoded(s *Sketch) []byte { return s.Append(nil) }

func TestMergeAndSubtract(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := genSketch(t, "a"), genSketch(t, "b"), genSketch(t, "c")
		sum := func(parts ...*Sketch) *Sketch {
			s := &Sketch{}
			for _, p := range parts {
				s.Merge(p)
			}
			return s
		}
		ab := sum(a, b)
		if !bytes.Equal(encoded(ab), encoded(sum(b, a))) {
			t.Fatal("merge depends on the order")
		}
		if !bytes.Equal(encoded(sum(ab, c)), encoded(sum(a, sum(b, c)))) {
			t.Fatal("merge is not associative")
		}
		clone := ab.Clone()
		if !ab.Subtract(b) || !bytes.Equal(encoded(ab), encoded(a)) || ab.Count() != a.Count() {
			t.Fatal("a + b - b is not a")
		}
		if !bytes.Equal(encoded(&clone), encoded(sum(a, b))) {
			t.Fatal("a clone changed with its original")
		}
		if !clone.Subtract(a) || !clone.Subtract(b) || clone.Count() != 0 || len(encoded(&clone)) != 0 {
			t.Fatal("a + b - a - b is not empty")
		}
		if b.Count() > 0 && clone.Subtract(b) {
			t.Fatal("took out what was not there")
		}
	})
}

func TestCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSketch(t, "s")
		data := encoded(s)
		got, err := Decode(data)
		if err != nil || got.Count() != s.Count() || !bytes.Equal(encoded(&got), data) {
			t.Fatalf("%x came back as %x, %v", data, encoded(&got), err)
		}
	})
	for _, latencies := range [][]int64{{5}, {5, 5, 5, 5, 5, 5}, {1, 2, 3, 4}, slices.Repeat(span(200, 2000), 300)} {
		var s Sketch
		for _, ms := range latencies {
			s.Record(ms)
		}
		data := encoded(&s)
		for _, other := range [][]byte{append([]byte{9}, data[1:]...), append(slices.Clone(data), 0), data[:len(data)-1], {data[0]}} {
			if got, err := Decode(other); err == nil && !bytes.Equal(encoded(&got), other) {
				t.Errorf("%x was taken for a sketch", other)
			}
		}
	}
	for _, bad := range [][]byte{{0}, {1}, {2}, {0, 0}, {0, 0, 0}, {2, 0, 1}, {0, 0xff, 0xff, 0x7f, 1}, {0, 0, 0x80, 0x00}, {2, 0xff, 0x7f, 1},
		append(append([]byte{0, 0}, bytes.Repeat([]byte{0xff}, 9)...), 1, 0, 1)} {
		if _, err := Decode(bad); err == nil {
			t.Errorf("%x was taken for a sketch", bad)
		}
	}
}

// Whatever Decode takes, Append writes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 2, 3, 4})
	f.Add([]byte{1, 1, 0, 0, 9})
	f.Add([]byte{2, 5, 1, 0, 1, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		if !bytes.Equal(encoded(&s), data) {
			t.Fatalf("%x came back as %x", data, encoded(&s))
		}
		if n := s.Count(); n > 0 {
			s.ValueAtRank(1)
			s.ValueAtRank(n)
		}
	})
}
