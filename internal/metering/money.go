package metering

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// NanoUSD is an amount of US dollars in units of 10^-9, the only money type of
// this project. Arithmetic is checked; see [NanoUSD.Add].
type NanoUSD int64

// MaxCost is the largest cost one record may carry: 2^53-1 nano-dollars, a bit
// more than nine million dollars. Within it an amount survives a JSON number.
const MaxCost NanoUSD = 1<<53 - 1

// nanoDigits is how many fractional digits a NanoUSD holds.
const nanoDigits = 9

const nanosPerUSD = 1_000_000_000

var (
	// ErrOverflow reports an amount or a sum that does not fit its integer.
	ErrOverflow = errors.New("amount exceeds what nano-dollars can hold")
	// ErrNotDecimal reports a text that is not a plain decimal number.
	ErrNotDecimal = errors.New("not a plain decimal amount such as 12.50")
	// ErrTooPrecise reports more than nine fractional digits.
	ErrTooPrecise = errors.New("amount is finer than a nano-dollar (nine decimals)")
)

// Add returns a+b, or ErrOverflow.
func (a NanoUSD) Add(b NanoUSD) (NanoUSD, error) {
	sum, err := addInt64(int64(a), int64(b))
	return NanoUSD(sum), err
}

// Sub returns a-b, or ErrOverflow.
func (a NanoUSD) Sub(b NanoUSD) (NanoUSD, error) {
	d := a - b
	if (a >= 0) != (b >= 0) && (d >= 0) != (a >= 0) {
		return 0, ErrOverflow
	}
	return d, nil
}

// Mul returns a*n, or ErrOverflow.
func (a NanoUSD) Mul(n int64) (NanoUSD, error) {
	hi, lo := bits.Mul64(magnitude(int64(a)), magnitude(n))
	negative := (a < 0) != (n < 0)
	switch {
	case hi != 0, !negative && lo > math.MaxInt64, negative && lo > 1<<63:
		return 0, ErrOverflow
	case negative:
		return NanoUSD(-lo), nil
	}
	return NanoUSD(lo), nil
}

// String returns the amount as a decimal number of dollars without trailing
// zeros: "0.00215", "12", "-3.5". It is what stands on the wire.
func (a NanoUSD) String() string { return string(a.Append(nil)) }

// Append appends the text of [NanoUSD.String] to dst.
func (a NanoUSD) Append(dst []byte) []byte {
	if a < 0 {
		dst = append(dst, '-')
	}
	m := magnitude(int64(a))
	dst = strconv.AppendUint(dst, m/nanosPerUSD, 10)
	rest := m % nanosPerUSD
	if rest == 0 {
		return dst
	}
	digits := nanoDigits
	for rest%10 == 0 {
		rest /= 10
		digits--
	}
	dst = append(dst, '.')
	for pad := pow10(digits - 1); pad > rest && pad > 1; pad /= 10 {
		dst = append(dst, '0')
	}
	return strconv.AppendUint(dst, rest, 10)
}

// ParseUSD reads a decimal number of dollars exactly. The form is an optional
// minus sign, digits, and at most nine fractional digits that are not zero:
// "0.002150000" and "12" are fine; "1e3", "+1", ".5", "1." and " 1" are not.
// Errors are ErrNotDecimal, ErrTooPrecise or ErrOverflow.
func ParseUSD(text string) (NanoUSD, error) {
	neg, whole, frac, err := splitDecimal(text)
	if err != nil {
		return 0, err
	}
	frac = strings.TrimRight(frac, "0")
	if len(frac) > nanoDigits {
		return 0, fmt.Errorf("%w: %.40q", ErrTooPrecise, text)
	}
	return assemble(neg, whole, frac, false, text)
}

// ParseLimitUSD reads an amount that bounds spending: what is finer than a
// nano-dollar is cut off, so a limit never grows. Errors as ParseUSD, without
// ErrTooPrecise; a negative limit is ErrNotDecimal.
func ParseLimitUSD(text string) (NanoUSD, error) {
	neg, whole, frac, err := splitDecimal(text)
	if err != nil || neg {
		return 0, fmt.Errorf("%w: %.40q", ErrNotDecimal, text)
	}
	if len(frac) > nanoDigits {
		frac = frac[:nanoDigits]
	}
	return assemble(false, whole, frac, false, text)
}

// ParseChargeUSD reads an amount that is charged: what is finer than a
// nano-dollar counts as a whole one, so a charge never shrinks. Errors as
// ParseLimitUSD.
func ParseChargeUSD(text string) (NanoUSD, error) {
	neg, whole, frac, err := splitDecimal(text)
	if err != nil || neg {
		return 0, fmt.Errorf("%w: %.40q", ErrNotDecimal, text)
	}
	up := false
	if len(frac) > nanoDigits {
		up = strings.Trim(frac[nanoDigits:], "0") != ""
		frac = frac[:nanoDigits]
	}
	return assemble(false, whole, frac, up, text)
}

func splitDecimal(text string) (negative bool, whole, frac string, err error) {
	s, negative := strings.CutPrefix(text, "-")
	whole, frac, dotted := strings.Cut(s, ".")
	if !isDigits(whole) || dotted && !isDigits(frac) {
		return false, "", "", fmt.Errorf("%w: %.40q", ErrNotDecimal, text)
	}
	return negative, whole, frac, nil
}

// assemble joins at most nine fractional digits to the whole part.
func assemble(negative bool, whole, frac string, up bool, text string) (NanoUSD, error) {
	whole = strings.TrimLeft(whole, "0")
	if len(whole) > 10 { // more than ten digits of dollars never fit
		return 0, fmt.Errorf("%w: %.40q", ErrOverflow, text)
	}
	var n uint64
	for _, c := range []byte(whole) {
		n = n*10 + uint64(c-'0')
	}
	for i := range nanoDigits {
		n *= 10 // at most 10^19, below 2^64
		if i < len(frac) {
			n += uint64(frac[i] - '0')
		}
	}
	if up {
		n++
	}
	switch {
	case negative && n > 1<<63, !negative && n > math.MaxInt64:
		return 0, fmt.Errorf("%w: %.40q", ErrOverflow, text)
	case negative:
		return NanoUSD(-n), nil
	}
	return NanoUSD(n), nil
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func pow10(n int) uint64 {
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

func addInt64(a, b int64) (int64, error) {
	sum := a + b
	if (a >= 0) == (b >= 0) && (sum >= 0) != (a >= 0) {
		return 0, ErrOverflow
	}
	return sum, nil
}

// product128 accumulates unsigned products exactly in 128 bits.
type product128 struct {
	hi, lo   uint64
	overflow bool
}

// add adds a*b*scale.
func (p *product128) add(a, b, scale uint64) {
	hi, lo := bits.Mul64(a, b)
	hi2, lo := bits.Mul64(lo, scale)
	over, hi := bits.Mul64(hi, scale)
	hi, carry := bits.Add64(hi, hi2, 0)
	p.overflow = p.overflow || over != 0 || carry != 0
	p.lo, carry = bits.Add64(p.lo, lo, 0)
	p.hi, carry = bits.Add64(p.hi, hi, carry)
	p.overflow = p.overflow || carry != 0
}

// roundHalfUp divides by unit and rounds once, half up. It is the only rounding
// of money in the project. A result beyond MaxCost is ErrOverflow.
func (p product128) roundHalfUp(unit uint64) (NanoUSD, error) {
	lo, carry := bits.Add64(p.lo, unit/2, 0)
	hi, carry := bits.Add64(p.hi, 0, carry)
	if p.overflow || carry != 0 || hi >= unit {
		return 0, ErrOverflow
	}
	q, _ := bits.Div64(hi, lo, unit)
	if q > uint64(MaxCost) {
		return 0, ErrOverflow
	}
	return NanoUSD(q), nil
}
