package ledger

import (
	"math"
	"time"

	"github.com/asap-protocol/asap-go/internal/metering"
)

// Piece is a part of a range of time, [LoUS, HiUS) in microseconds since 1970:
// whole cells of a span, or a part of an hour, which only records tell apart.
type Piece struct {
	LoUS, HiUS int64
	Span       Span
	Records    bool // Span does not count
}

// Cut divides the range of a filter into months, days, hours and what is left at
// the edges, in order, for sums told apart by dims. A range without a start or an
// end reaches to math.MinInt64 or math.MaxInt64.
func Cut(f *metering.Filter, dims metering.Dims) []Piece {
	lo, hi := int64(math.MinInt64), int64(math.MaxInt64)
	if !f.Start.IsZero() {
		lo = CeilUS(f.Start)
	}
	if !f.End.IsZero() {
		hi = CeilUS(f.End)
	}
	coarsest := Month
	switch {
	case dims.Has(metering.ByHour):
		coarsest = Hour
	case dims.Has(metering.ByDay):
		coarsest = Day
	}
	return cut(nil, lo, hi, Month, coarsest)
}

// cut adds the pieces of a range in which cells of span are the largest there are.
func cut(pieces []Piece, lo, hi int64, span, coarsest Span) []Piece {
	if lo >= hi {
		return pieces
	}
	finer := func(lo, hi int64) {
		switch {
		case span > Hour:
			pieces = cut(pieces, lo, hi, span-1, coarsest)
		case lo < hi:
			pieces = append(pieces, Piece{LoUS: lo, HiUS: hi, Records: true})
		}
	}
	first, last := nextStart(lo, span), thisStart(hi, span)
	if span > coarsest || first > last {
		finer(lo, hi)
		return pieces
	}
	finer(lo, first)
	if first < last {
		pieces = append(pieces, Piece{LoUS: first, HiUS: last, Span: span})
	}
	finer(last, hi)
	return pieces
}

// thisStart is the start of the cell us is in; the ends of time are their own.
func thisStart(us int64, span Span) int64 {
	if us == math.MinInt64 || us == math.MaxInt64 {
		return us
	}
	return span.StartUS(time.UnixMicro(us))
}

// nextStart is the start of the first cell that is not before us.
func nextStart(us int64, span Span) int64 {
	start := thisStart(us, span)
	if start == us {
		return us
	}
	t := time.UnixMicro(start).UTC()
	switch span {
	case Month:
		t = t.AddDate(0, 1, 0)
	case Day:
		t = t.AddDate(0, 0, 1)
	default:
		t = t.Add(time.Hour)
	}
	return t.UnixMicro()
}

// CeilUS rounds up to the microsecond: a record at t-1ns is never later than t.
func CeilUS(t time.Time) int64 {
	us := t.UnixMicro()
	if t.Nanosecond()%1000 != 0 {
		us++
	}
	return us
}
