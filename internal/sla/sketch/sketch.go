// Package sketch is the latency histogram that service levels are judged with:
// whole milliseconds from 0 to 24 hours in exponential bins of 64 per doubling
// (exp2 schema 6, as in Prometheus native histograms and at scale 6 of
// OpenTelemetry), so that any rank is told with an error of at most 0.55 % (or
// half a millisecond, as answers are whole). Histograms add and subtract exactly,
// in any order, and equal contents encode to equal bytes.
package sketch

import (
	"math"
	"math/bits"
)

const (
	// Schema is the resolution: 2^Schema bins per doubling.
	Schema = 6
	// MaxMS is the largest latency that is told apart; longer ones count as it.
	MaxMS = 24 * 60 * 60 * 1000

	perDoubling = 1 << Schema
	// bins is the number of bins: one for 0 and those with the indices 0 (1 ms)
	// to 1687 (just below 24 h) and 1688, which holds MaxMS.
	bins = 1690
	// denseFrom is the number of filled bins from which a plain array is smaller
	// and faster than a sorted list.
	denseFrom = 512
	// sparseBelow is the number of filled bins at which the list is taken up
	// again; the gap to denseFrom keeps a histogram from changing to and fro.
	sparseBelow = 256
)

// grid holds what is derived from the schema once; it is never written again.
type grid struct {
	last  [bins]int64 // the largest whole millisecond of a bin
	value [bins]int64 // what a bin's contents are reported as
	start [256]uint16 // the first bin of an octave to look at, by leading bits
}

var table = newGrid()

func newGrid() *grid {
	g := &grid{}
	for bin := 1; bin < bins; bin++ {
		// 2^(i/64) is a whole number only where i is a multiple of 64, and there
		// Exp2 is exact; a test compares every bound with 2^i in whole numbers.
		g.last[bin] = int64(math.Exp2(float64(bin-1) / perDoubling))
		low, high := g.last[bin-1]+1, g.last[bin]
		if low > high { // no whole millisecond lies in it
			low = high
		}
		// The point whose relative distance to both ends is the same.
		g.value[bin] = (2*low*high + (low+high)/2) / (low + high)
	}
	g.last[bins-1], g.value[bins-1] = MaxMS, MaxMS // where longer ones are counted
	for lead := range g.start {
		g.start[lead] = uint16(perDoubling * math.Log2(1+float64(lead)/256))
	}
	return g
}

// binOf returns the bin of a latency between 0 and MaxMS.
func binOf(ms int64) uint16 {
	if ms <= 0 {
		return 0
	}
	v := uint32(ms)
	octave := bits.Len32(v) - 1
	lead := (v << (31 - octave) >> 23) & 0xff
	bin := 1 + uint16(octave)*perDoubling + table.start[lead]
	for ms > table.last[bin] {
		bin++
	}
	return bin
}

// A Sketch is a histogram of latencies. The zero value is empty and ready. It
// must not be copied while in use, and is not safe for concurrent use.
type Sketch struct {
	total  uint64
	sparse []entry // sorted by bin, no empty ones; nil while big is set
	big    *dense
}

type entry struct {
	bin uint16
	n   uint32
}

// dense holds many bins as an array: of 32-bit counts, or of 64-bit ones once a
// count does not fit any more.
type dense struct {
	narrow []uint32
	wide   []uint64
	filled int
}

// Count is how many latencies are in it.
func (s *Sketch) Count() uint64 { return s.total }

// Record adds one latency. It must be between 0 and MaxMS.
func (s *Sketch) Record(ms int64) { s.add(binOf(ms), 1) }

// Merge adds all that is in other.
func (s *Sketch) Merge(other *Sketch) {
	for bin, n := range other.all {
		s.add(bin, n)
	}
}

// Subtract takes out all that is in other, which must have been merged before.
// It reports whether all of it was there; if not, s is unchanged.
func (s *Sketch) Subtract(other *Sketch) bool {
	for bin, n := range other.all {
		if s.at(bin) < n {
			return false
		}
	}
	for bin, n := range other.all {
		s.remove(bin, n)
	}
	return true
}

// Clone returns an independent copy.
func (s *Sketch) Clone() Sketch {
	c := Sketch{total: s.total}
	if s.big == nil {
		c.sparse = append([]entry(nil), s.sparse...)
		return c
	}
	c.big = &dense{
		narrow: append([]uint32(nil), s.big.narrow...),
		wide:   append([]uint64(nil), s.big.wide...),
		filled: s.big.filled,
	}
	return c
}

// ValueAtRank returns the rank-th smallest latency in milliseconds, counted from
// 1. The rank must be between 1 and Count.
func (s *Sketch) ValueAtRank(rank uint64) int64 {
	// High ranks are asked for, so count from the top.
	above := s.total - rank
	if s.big == nil {
		for i := len(s.sparse) - 1; i >= 0; i-- {
			if uint64(s.sparse[i].n) > above {
				return table.value[s.sparse[i].bin]
			}
			above -= uint64(s.sparse[i].n)
		}
		return 0
	}
	for bin := bins - 1; bin >= 0; bin-- {
		n := s.big.at(uint16(bin))
		if n > above {
			return table.value[bin]
		}
		above -= n
	}
	return 0
}

// P95 returns the 95th percentile by nearest rank: the ceil(0.95 n)-th smallest
// latency. ok is false for an empty sketch.
func (s *Sketch) P95() (ms int64, ok bool) {
	if s.total == 0 {
		return 0, false
	}
	return s.ValueAtRank(s.total - s.total/20), true
}

// CountAtLeast returns how many latencies are reported as ms or more.
func (s *Sketch) CountAtLeast(ms int64) uint64 {
	var n uint64
	for bin, k := range s.all {
		if table.value[bin] >= ms {
			n += k
		}
	}
	return n
}

// Bins calls yield for each filled bin in order: its index in the exponential
// schema (bin i holds latencies in (2^((i-1)/64), 2^(i/64)] ms), or -1 for 0 ms,
// and its count. It is what an export as a native histogram needs.
func (s *Sketch) Bins(yield func(index int, n uint64) bool) {
	s.all(func(bin uint16, n uint64) bool { return yield(int(bin)-1, n) })
}

func (s *Sketch) all(yield func(bin uint16, n uint64) bool) {
	if s.big == nil {
		for _, e := range s.sparse {
			if !yield(e.bin, uint64(e.n)) {
				return
			}
		}
		return
	}
	left := s.big.filled
	for bin := uint16(0); left > 0; bin++ {
		if n := s.big.at(bin); n > 0 {
			left--
			if !yield(bin, n) {
				return
			}
		}
	}
}

func (s *Sketch) at(bin uint16) uint64 {
	if s.big != nil {
		return s.big.at(bin)
	}
	if i, found := s.find(bin); found {
		return uint64(s.sparse[i].n)
	}
	return 0
}

func (s *Sketch) find(bin uint16) (int, bool) {
	low, high := 0, len(s.sparse)
	for low < high {
		mid := int(uint(low+high) / 2)
		if s.sparse[mid].bin < bin {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(s.sparse) && s.sparse[low].bin == bin
}

func (s *Sketch) add(bin uint16, n uint64) {
	s.total += n
	if s.big != nil {
		s.big.add(bin, n)
		return
	}
	i, found := s.find(bin)
	switch {
	case found && uint64(s.sparse[i].n)+n <= math.MaxUint32:
		s.sparse[i].n += uint32(n)
	case found || n > math.MaxUint32 || len(s.sparse) >= denseFrom:
		s.promote()
		s.big.add(bin, n)
	default:
		s.sparse = append(s.sparse, entry{})
		copy(s.sparse[i+1:], s.sparse[i:])
		s.sparse[i] = entry{bin, uint32(n)}
	}
}

// remove takes n out of a bin that holds at least as many.
func (s *Sketch) remove(bin uint16, n uint64) {
	s.total -= n
	if s.big != nil {
		s.big.remove(bin, n)
		if s.big.filled < sparseBelow && s.big.wide == nil {
			s.demote()
		}
		return
	}
	i, _ := s.find(bin)
	s.sparse[i].n -= uint32(n)
	if s.sparse[i].n == 0 {
		s.sparse = append(s.sparse[:i], s.sparse[i+1:]...)
	}
}

func (s *Sketch) promote() {
	s.big = &dense{narrow: make([]uint32, bins), filled: len(s.sparse)}
	for _, e := range s.sparse {
		s.big.narrow[e.bin] = e.n
	}
	s.sparse = nil
}

func (s *Sketch) demote() {
	sparse := make([]entry, 0, s.big.filled)
	for bin, n := range s.big.narrow {
		if n > 0 {
			sparse = append(sparse, entry{uint16(bin), n})
		}
	}
	s.sparse, s.big = sparse, nil
}

func (d *dense) at(bin uint16) uint64 {
	if d.wide != nil {
		return d.wide[bin]
	}
	return uint64(d.narrow[bin])
}

func (d *dense) add(bin uint16, n uint64) {
	if d.at(bin) == 0 && n > 0 {
		d.filled++
	}
	if d.wide == nil && d.at(bin)+n > math.MaxUint32 {
		d.wide = make([]uint64, bins)
		for i, k := range d.narrow {
			d.wide[i] = uint64(k)
		}
		d.narrow = nil
	}
	if d.wide != nil {
		d.wide[bin] += n
		return
	}
	d.narrow[bin] += uint32(n)
}

func (d *dense) remove(bin uint16, n uint64) {
	if d.wide != nil {
		d.wide[bin] -= n
	} else {
		d.narrow[bin] -= uint32(n)
	}
	if d.at(bin) == 0 {
		d.filled--
	}
}
