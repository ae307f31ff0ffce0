package delegation

import (
	"errors"
	"strconv"
)

// NanoPerUSD is how many nano-dollars make a dollar.
const NanoPerUSD = 1_000_000_000

// MaxLimitNanoUSD is the highest cost limit, nine billion dollars.
const MaxLimitNanoUSD = 9_000_000_000 * NanoPerUSD

var (
	errMoneySyntax   = errors.New("not a JSON number")
	errMoneyNegative = errors.New("an amount below zero")
	errMoneyLarge    = errors.New("an amount above 9000000000 dollars")
)

// ParseLimitUSD reads a cost limit, the text of a JSON number of dollars, as
// nano-dollars. It is exact: no floating point is involved, and what is finer
// than a nano-dollar is cut off, as limits round down.
func ParseLimitUSD(text string) (nanoUSD int64, err error) {
	r := reader{s: text}
	if num, err := r.number(); err != nil || num != text {
		return 0, errMoneySyntax
	}
	if text[0] == '-' {
		return 0, errMoneyNegative
	}
	// The digits without point and exponent, and where the point is.
	i, point, seenPoint := 0, 0, false
	for ; i < len(text) && text[i] != 'e' && text[i] != 'E'; i++ {
		if text[i] == '.' {
			seenPoint = true
		} else if !seenPoint {
			point++
		}
	}
	mantissa := text[:i]
	exponent := 0
	if i < len(text) {
		// Beyond ±10000 the answer does not depend on the exponent: a link holds
		// at most MaxLinkBytes digits.
		if exponent, err = strconv.Atoi(text[i+1:]); err != nil || exponent > 10_000 || exponent < -10_000 {
			exponent = 10_000
			if text[i+1] == '-' {
				exponent = -10_000
			}
		}
	}
	point += exponent
	const places = 9
	at := 0 // index of the digit, counted without the point
	for j := 0; j < len(mantissa); j++ {
		if mantissa[j] == '.' {
			continue
		}
		if at < point+places {
			if nanoUSD > MaxLimitNanoUSD/10 {
				return 0, errMoneyLarge
			}
			nanoUSD = nanoUSD*10 + int64(mantissa[j]-'0')
		}
		at++
	}
	for ; at < point+places && nanoUSD != 0; at++ {
		if nanoUSD > MaxLimitNanoUSD/10 {
			return 0, errMoneyLarge
		}
		nanoUSD *= 10
	}
	if nanoUSD > MaxLimitNanoUSD {
		return 0, errMoneyLarge
	}
	return nanoUSD, nil
}

// FormatUSD writes nano-dollars as the shortest exact decimal number of
// dollars: 1250000000 is "1.25".
func FormatUSD(nanoUSD int64) string { return string(appendUSD(nil, nanoUSD)) }

func appendUSD(dst []byte, nanoUSD int64) []byte {
	u := uint64(nanoUSD)
	if nanoUSD < 0 {
		dst = append(dst, '-')
		u = -u
	}
	dst = strconv.AppendUint(dst, u/NanoPerUSD, 10)
	frac := u % NanoPerUSD
	if frac == 0 {
		return dst
	}
	dst = append(dst, '.')
	for unit := uint64(NanoPerUSD / 10); frac != 0; unit /= 10 {
		dst = append(dst, byte('0'+frac/unit))
		frac %= unit
	}
	return dst
}
