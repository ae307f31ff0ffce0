package asap

import (
	"cmp"
	"errors"
	"math/bits"
	"strings"
)

// MaxPercentageScale is how many decimal places a percentage may have.
const MaxPercentageScale = 17

// ErrPercentage reports a text that is not a percentage.
var ErrPercentage = errors.New("must be a percentage from 0 to 100 with at most 17 decimal places, such as 99.5%")

// A Percentage is an exact decimal from 0 to 100, together with the text it was
// written as. Its value is units / 10^scale percent. The zero value is 0 with no
// text; it is written as "0%".
type Percentage struct {
	text  string
	units uint64
	scale uint8
}

// ParsePercentage reads digits with an optional decimal point and an optional
// percent sign; blanks may stand around the number. Stricter than v1.3.0
// (sla-cases V2, V3): more than one point, no digit at all, values outside
// 0...100 and non-ASCII digits are refused.
func ParsePercentage(text string) (Percentage, error) {
	p := Percentage{text: text}
	s := trimBlanks(text)
	s = trimBlanks(strings.TrimSuffix(s, "%"))
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, _ := strings.Cut(digits, ".")
	if whole == "" && fraction == "" {
		return p, ErrPercentage
	}
	whole = strings.TrimLeft(whole, "0")
	fraction = strings.TrimRight(fraction, "0")
	if len(whole) > 3 || len(fraction) > MaxPercentageScale {
		return p, ErrPercentage
	}
	for _, c := range []byte(whole + fraction) {
		if c < '0' || c > '9' {
			return p, ErrPercentage
		}
		p.units = p.units*10 + uint64(c-'0')
	}
	p.scale = uint8(len(fraction))
	if p.units > 100*pow10(p.scale) || (negative && p.units > 0) {
		return p, ErrPercentage
	}
	return p, nil
}

// String is the text as it was written.
func (p Percentage) String() string {
	if p.text == "" {
		return "0%"
	}
	return p.text
}

// Decimal returns the value as units / 10^scale percent, without trailing zeros
// in the fraction.
func (p Percentage) Decimal() (units uint64, scale uint8) { return p.units, p.scale }

// Float64 is the value in percent, rounded to a double: for display only.
func (p Percentage) Float64() float64 { return float64(p.units) / float64(pow10(p.scale)) }

// Compare orders two percentages by value; exact.
func (p Percentage) Compare(q Percentage) int {
	pHi, pLo := bits.Mul64(p.units, pow10(q.scale))
	qHi, qLo := bits.Mul64(q.units, pow10(p.scale))
	return cmp.Or(cmp.Compare(pHi, qHi), cmp.Compare(pLo, qLo))
}

// Equal reports whether two percentages have the same value, however written.
func (p Percentage) Equal(q Percentage) bool { return p.Compare(q) == 0 }

// CompareRatio compares part/whole with p: negative if part/whole is below p, 0
// if it is exactly p, positive if above. It multiplies crosswise in 128 bits and
// never rounds. Both must not be negative, and whole must be positive.
func (p Percentage) CompareRatio(part, whole int64) int {
	aHi, aLo := bits.Mul64(uint64(part), 100*pow10(p.scale))
	bHi, bLo := bits.Mul64(uint64(whole), p.units)
	return cmp.Or(cmp.Compare(aHi, bHi), cmp.Compare(aLo, bLo))
}

// MarshalJSON writes the text.
func (p Percentage) MarshalJSON() ([]byte, error) { return appendString(nil, p.String()), nil }

func pow10(n uint8) uint64 {
	v := uint64(1)
	for range n {
		v *= 10
	}
	return v
}

func (o *object) percentage(i int) *Percentage {
	s := o.optStr(i)
	if s == nil {
		return nil
	}
	p, err := ParsePercentage(*s)
	if err != nil {
		o.fail(i, "value_error", "Value error, "+err.Error())
		return nil
	}
	return &p
}

func appendPercentage(dst []byte, p *Percentage) []byte {
	if p == nil {
		return append(dst, "null"...)
	}
	return appendString(dst, p.String())
}
