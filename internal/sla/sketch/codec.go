package sketch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
)

// The encodings. The shortest one is used, of equally short ones the first, so
// equal contents have equal bytes.
const (
	modeSparse = 0 // pairs: distance to the previous filled bin less one, count
	modeList   = 1 // every latency by itself: distance to the previous one's bin
	modeDense  = 2 // the first filled bin, then a count for every bin up to the last
)

// ErrEncoding reports bytes that Append does not write.
var ErrEncoding = errors.New("not the encoding of a latency sketch")

// Append appends the encoding of s: nothing for an empty sketch, else a mode
// byte and unsigned varints.
func (s *Sketch) Append(dst []byte) []byte {
	if s.total == 0 {
		return dst
	}
	mode, size := byte(modeSparse), s.sizeSparse()
	if n := s.sizeList(); n < size {
		mode, size = modeList, n
	}
	if n := s.sizeDense(); n < size {
		mode = modeDense
	}
	dst = append(dst, mode)
	next := uint16(0) // where the distance to the next bin is counted from
	for bin, n := range s.all {
		switch mode {
		case modeSparse:
			dst = binary.AppendUvarint(dst, uint64(bin-next))
			dst = binary.AppendUvarint(dst, n)
			next = bin + 1
		case modeList:
			for range n {
				dst = binary.AppendUvarint(dst, uint64(bin-next))
				next = bin
			}
		case modeDense:
			if next == 0 {
				dst = binary.AppendUvarint(dst, uint64(bin))
				next = bin
			}
			for ; next < bin; next++ {
				dst = append(dst, 0)
			}
			dst = binary.AppendUvarint(dst, n)
			next = bin + 1
		}
	}
	return dst
}

// uvarintLen is how many bytes v takes.
func uvarintLen(v uint64) int { return max(1, (bits.Len64(v)+6)/7) }

func (s *Sketch) sizeSparse() int {
	size, next := 0, uint16(0)
	for bin, n := range s.all {
		size += uvarintLen(uint64(bin-next)) + uvarintLen(n)
		next = bin + 1
	}
	return size
}

func (s *Sketch) sizeList() int {
	size, last := 0, uint16(0)
	for bin, n := range s.all {
		if n > uint64(math.MaxInt32-size) { // far too many to list
			return math.MaxInt
		}
		size += uvarintLen(uint64(bin-last)) + int(n) - 1
		last = bin
	}
	return size
}

func (s *Sketch) sizeDense() int {
	size, next := 0, -1
	for bin, n := range s.all {
		if next < 0 {
			size, next = uvarintLen(uint64(bin)), int(bin)
		}
		size += int(bin) - next + uvarintLen(n)
		next = int(bin) + 1
	}
	return size
}

// Decode reads what Append wrote, and nothing else: there is one encoding for
// each sketch.
func Decode(data []byte) (Sketch, error) {
	var s Sketch
	if len(data) == 0 {
		return s, nil
	}
	mode, rest := data[0], data[1:]
	bad := false
	read := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			bad, rest = true, nil
			return 0
		}
		rest = rest[n:]
		return v
	}
	put := func(bin, n uint64) {
		switch {
		case bin >= bins || n > math.MaxUint64-s.total:
			bad, rest = true, nil
		case n > 0:
			s.add(uint16(bin), n)
		}
	}
	next := uint64(0)
	if mode == modeDense {
		next = read()
	}
	for len(rest) > 0 {
		if next >= bins {
			return Sketch{}, ErrEncoding
		}
		switch mode {
		case modeSparse:
			bin := next + min(read(), bins)
			put(bin, read())
			next = bin + 1
		case modeList:
			next += min(read(), bins)
			put(next, 1)
		case modeDense:
			put(next, read())
			next++
		default:
			return Sketch{}, ErrEncoding
		}
	}
	if bad || !bytes.Equal(s.Append(nil), data) {
		return Sketch{}, ErrEncoding
	}
	return s, nil
}
