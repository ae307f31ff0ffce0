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
	// denseFrom is the number of filled bins from which pages are faster than a
	// sorted list.
	denseFrom = 96
	// sparseBelow is the number of filled bins at which the list is taken up
	// again; the gap to denseFrom keeps a histogram from changing to and fro.
	sparseBelow = 48

	pageBins = perDoubling
	pages    = (bins + pageBins - 1) / pageBins
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

// entry is six bytes: a bin, and the halves of its count.
type entry struct{ bin, low, high uint16 }

func (e entry) n() uint32 { return uint32(e.high)<<16 | uint32(e.low) }

func newEntry(bin uint16, n uint32) entry { return entry{bin, uint16(n), uint16(n >> 16)} }

// dense holds many bins: pages of 32-bit counts, nil where there is nothing, or
// 64-bit counts once the total does not fit any more.
type dense struct {
	narrow [pages]*[pageBins]uint32
	wide   []uint64
}

// Count is how many latencies are in it.
func (s *Sketch) Count() uint64 { return s.total }

// Record adds one latency. It must be between 0 and MaxMS.
func (s *Sketch) Record(ms int64) { s.add(binOf(ms), 1) }

// Merge adds all that is in other.
func (s *Sketch) Merge(other *Sketch) {
	switch {
	case other.big == nil:
		for _, e := range other.sparse {
			s.add(e.bin, uint64(e.n()))
		}
	case other.big.wide != nil || s.total+other.total > math.MaxUint32:
		for bin, n := range other.all {
			s.add(bin, n)
		}
	default:
		s.promote()
		s.total += other.total
		for i, from := range other.big.narrow {
			if from == nil {
				continue
			}
			to := s.big.page(i)
			for j, n := range from {
				to[j] += n
			}
		}
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
	if s.big != nil {
		s.demote()
	}
	return true
}

// Clone returns an independent copy.
func (s *Sketch) Clone() Sketch {
	c := Sketch{total: s.total, sparse: append([]entry(nil), s.sparse...)}
	if s.big != nil {
		c.big = &dense{wide: append([]uint64(nil), s.big.wide...)}
		for i, page := range s.big.narrow {
			if page != nil {
				*c.big.page(i) = *page
			}
		}
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
			n := uint64(s.sparse[i].n())
			if n > above {
				return table.value[s.sparse[i].bin]
			}
			above -= n
		}
		return 0
	}
	for bin := bins - 1; bin >= 0; bin-- {
		if s.big.wide == nil && s.big.narrow[bin/pageBins] == nil {
			bin -= bin % pageBins // the page's first
			continue
		}
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
	for _, e := range s.sparse {
		if !yield(e.bin, uint64(e.n())) {
			return
		}
	}
	if s.big == nil {
		return
	}
	for bin, n := range s.big.wide {
		if n > 0 && !yield(uint16(bin), n) {
			return
		}
	}
	for i, page := range s.big.narrow {
		if page == nil {
			continue
		}
		for j, n := range page {
			if n > 0 && !yield(uint16(i*pageBins+j), uint64(n)) {
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
		return uint64(s.sparse[i].n())
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
		s.big.add(bin, n, s.total)
		return
	}
	i, found := s.find(bin)
	switch {
	case s.total > math.MaxUint32 || (!found && len(s.sparse) >= denseFrom):
		s.promote()
		s.big.add(bin, n, s.total)
	case found:
		s.sparse[i] = newEntry(bin, s.sparse[i].n()+uint32(n))
	default:
		if len(s.sparse) == cap(s.sparse) { // grown by a quarter: there are many sketches
			s.sparse = append(make([]entry, 0, len(s.sparse)+max(4, len(s.sparse)/4)), s.sparse...)
		}
		s.sparse = append(s.sparse, entry{})
		copy(s.sparse[i+1:], s.sparse[i:])
		s.sparse[i] = newEntry(bin, uint32(n))
	}
}

// remove takes n out of a bin that holds at least as many.
func (s *Sketch) remove(bin uint16, n uint64) {
	s.total -= n
	if s.big != nil {
		s.big.remove(bin, n)
		return
	}
	i, _ := s.find(bin)
	s.sparse[i] = newEntry(bin, s.sparse[i].n()-uint32(n))
	if s.sparse[i].n() == 0 {
		s.sparse = append(s.sparse[:i], s.sparse[i+1:]...)
	}
}

func (s *Sketch) promote() {
	if s.big != nil {
		return
	}
	s.big = &dense{}
	for _, e := range s.sparse {
		s.big.page(int(e.bin) / pageBins)[e.bin%pageBins] = e.n()
	}
	s.sparse = nil
}

// demote makes a list again of what has become little.
func (s *Sketch) demote() {
	filled := 0
	for range s.all {
		filled++
	}
	if filled >= sparseBelow || s.total > math.MaxUint32 {
		return
	}
	sparse := make([]entry, 0, filled)
	for bin, n := range s.all {
		sparse = append(sparse, newEntry(bin, uint32(n)))
	}
	s.sparse, s.big = sparse, nil
}

func (d *dense) page(i int) *[pageBins]uint32 {
	if d.narrow[i] == nil {
		d.narrow[i] = new([pageBins]uint32)
	}
	return d.narrow[i]
}

func (d *dense) at(bin uint16) uint64 {
	switch page := d.narrow[bin/pageBins]; {
	case d.wide != nil:
		return d.wide[bin]
	case page != nil:
		return uint64(page[bin%pageBins])
	default:
		return 0
	}
}

// add adds n to a bin; total is what there is in all bins with it.
func (d *dense) add(bin uint16, n, total uint64) {
	if d.wide == nil && total > math.MaxUint32 {
		wide := make([]uint64, bins)
		for i := range wide {
			wide[i] = d.at(uint16(i))
		}
		*d = dense{wide: wide}
	}
	if d.wide != nil {
		d.wide[bin] += n
		return
	}
	d.page(int(bin) / pageBins)[bin%pageBins] += uint32(n)
}

func (d *dense) remove(bin uint16, n uint64) {
	if d.wide != nil {
		d.wide[bin] -= n
		return
	}
	d.narrow[bin/pageBins][bin%pageBins] -= uint32(n)
}
