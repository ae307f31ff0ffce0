package registry

import (
	"strconv"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Basis says what a figure rests on.
type Basis string

// The bases.
const (
	Promised Basis = "promised" // the agent's manifest says so
	Measured Basis = "measured" // this node counted
)

// Share is an exact part of a hundred: a promise as it was written, or counts.
type Share struct {
	promise     asap.Percentage
	part, whole int64 // whole is 0 for a promise
}

// PromisedShare is the share that a manifest names.
func PromisedShare(p asap.Percentage) *Share { return &Share{promise: p} }

// MeasuredShare is part of whole; nil if whole is not positive, as nothing is
// known then. Parts outside 0 to whole count as the nearer of the two.
func MeasuredShare(part, whole int64) *Share {
	if whole <= 0 {
		return nil
	}
	return &Share{part: min(max(part, 0), whole), whole: whole}
}

// Compare orders the share and p by value, exactly.
func (s *Share) Compare(p asap.Percentage) int {
	if s.whole == 0 {
		return s.promise.Compare(p)
	}
	return p.CompareRatio(s.part, s.whole)
}

// Percent is the share in percent, rounded to a double: to sort and to show.
func (s *Share) Percent() float64 {
	if s.whole == 0 {
		return s.promise.Float64()
	}
	return 100 * float64(s.part) / float64(s.whole)
}

// Text is the promise as it was written, or "" for counts.
func (s *Share) Text() string {
	if s.whole == 0 {
		return s.promise.String()
	}
	return ""
}

// Figures are what is known of an agent on one basis. What is nil nobody knows.
type Figures struct {
	Basis        Basis
	Availability *Share
	LatencyP95MS *int64
	ErrorRate    *Share
	// Score is from 0 to 100. Nobody promises one: it is measured or not there.
	Score *float64
	// Window names the measured period ("30d"), which begins after Start and ends
	// with End. A promise has no window: it stands from Start on, and End is zero.
	Window     string
	Start, End time.Time
}

// promised returns what the agent's manifest promises.
func (a *Agent) promised() Figures {
	f := Figures{Basis: Promised, Start: a.UpdatedAt}
	if a.Manifest == nil || a.Manifest.SLA == nil {
		return f
	}
	sla := a.Manifest.SLA
	if sla.Availability != nil {
		f.Availability = PromisedShare(*sla.Availability)
	}
	if sla.MaxErrorRate != nil {
		f.ErrorRate = PromisedShare(*sla.MaxErrorRate)
	}
	f.LatencyP95MS = sla.MaxLatencyP95MS
	return f
}

// objectives is how many of the three objectives the agent promises.
func (f *Figures) objectives() int {
	n := 0
	for _, known := range []bool{f.Availability != nil, f.LatencyP95MS != nil, f.ErrorRate != nil} {
		n += rankOf(known)
	}
	return n
}

// AppendValue appends the share in percent as a JSON number: a promise digit by
// digit.
func (s *Share) AppendValue(dst []byte) []byte {
	if s.whole != 0 {
		return strconv.AppendFloat(dst, s.Percent(), 'f', -1, 64)
	}
	units, scale := s.promise.Decimal()
	digits := strconv.FormatUint(units, 10)
	for len(digits) <= int(scale) {
		digits = "0" + digits
	}
	dst = append(dst, digits[:len(digits)-int(scale)]...)
	if scale > 0 {
		dst = append(append(dst, '.'), digits[len(digits)-int(scale):]...)
	}
	return dst
}
