package sla

import (
	"math"
	"strconv"
	"strings"
)

// The numbers in this file are shown, not decided with.

// share is part/whole.
func share(part, whole int64) float64 { return float64(part) / float64(whole) }

// round6 rounds to the six decimals that are shown.
func round6(v float64) float64 { return math.Round(v*1e6) / 1e6 }

func shown(v float64) *float64 {
	v = round6(v)
	return &v
}

const (
	z95TwoSided = 1.96
	z95OneSided = 1.6448536269514722
)

// wilsonLower is the lower Wilson bound of a share that was observed n times.
func wilsonLower(share float64, n int64, z float64) float64 {
	k, zz := float64(n), z*z
	center := share + zz/(2*k)
	spread := z * math.Sqrt(share*(1-share)/k+zz/(4*k*k))
	return (center - spread) / (1 + zz/k)
}

// component is a share with the number of observations behind it; n is 0 where
// there is none.
type component struct {
	share    float64
	n        int64
	exponent float64
}

// score is 100 times the weighted geometric mean of the lower bounds of what is
// known: few observations sink by themselves. Nil without any.
func score(parts ...component) *float64 {
	logs, weights := 0.0, 0.0
	for _, c := range parts {
		if c.n > 0 {
			logs += c.exponent * math.Log(max(0, wilsonLower(c.share, c.n, z95TwoSided)))
			weights += c.exponent
		}
	}
	if weights == 0 {
		return nil
	}
	return shown(100 * math.Exp(logs/weights))
}

// leadingNumber reads the number of an actual value: 98.2 of "98.2%".
func leadingNumber(text string) float64 {
	v, err := strconv.ParseFloat(strings.TrimRight(text, "%ms"), 64)
	if err != nil {
		return math.NaN()
	}
	return v
}
