package metering

import (
	"math"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Metrics are the quantities a handler reported with its answer.
type Metrics struct {
	TokensIn, TokensOut, APICalls Count
}

// ReadMetrics reads TaskResponse.metrics (economics.md 2.2): tokens_in,
// tokens_out, api_calls and tokens_used. It never fails: a member that is
// missing or cannot be read is unknown, and a duration is ignored, as the node
// measures it. Numbers are read as v1.3.0 does, truncating.
//
// tokens_used is a total. It fills in the direction that is missing or 0, so
// that the sum is the total and no token counts twice; if neither direction is
// known it counts as output, as in v1.3.0.
func ReadMetrics(v jsontext.Value) Metrics {
	members, _, err := readObject(v)
	if err != nil {
		return Metrics{}
	}
	read := func(name string) Count {
		if n, ok := safeInt(members[name]); ok && n <= MaxQuantity {
			return &n
		}
		return nil
	}
	m := Metrics{TokensIn: read("tokens_in"), TokensOut: read("tokens_out"), APICalls: read("api_calls")}
	used := read("tokens_used")
	if used == nil {
		return m
	}
	in, out := deref(m.TokensIn), deref(m.TokensOut)
	switch {
	case out == 0 && *used >= in:
		rest := *used - in
		m.TokensOut = &rest
	case in == 0 && *used >= out:
		rest := *used - out
		m.TokensIn = &rest
	}
	return m
}

// safeInt reads a non-negative integer as v1.3.0's metering hook does. Where
// that takes 0 for want of anything better, ok is false.
func safeInt(v jsontext.Value) (n int64, ok bool) {
	switch v.Kind() {
	case 't':
		return 1, true
	case 'f':
		return 0, true
	case '0':
		f, err := strconv.ParseFloat(string(v), 64)
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return max(n, 0), n >= 0
		}
		if err != nil || f <= -1 || f >= math.MaxInt64 {
			return 0, false
		}
		return int64(f), true
	case '"':
		s, err := jsontext.AppendUnquote(nil, v)
		text, plain := plainDigits(string(s))
		if err != nil || !plain || strings.Contains(string(s), ".") {
			return 0, false
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return 0, false
		}
		return n, true
	}
	return 0, false
}
