package metering

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
)

// laxInt reads an integer as v1.3.0's models do (core.md 5): whole floats,
// numeric texts with blanks, sign and underscores, and booleans count. On
// failure kind and message name the mistake; a number beyond an int64 saturates
// and is left to the range check.
func laxInt(v jsontext.Value) (n int64, kind, message string) {
	const unparsable = "must be an integer, this text cannot be read as one"
	switch v.Kind() {
	case 't':
		return 1, "", ""
	case 'f':
		return 0, "", ""
	case '0':
		return wholeNumber(string(v))
	case '"':
		s, err := jsontext.AppendUnquote(nil, v)
		text, ok := plainDigits(string(s))
		if err != nil || !ok {
			return 0, "int_parsing", unparsable
		}
		n, kind, _ = wholeNumber(text)
		if kind != "" {
			return 0, "int_parsing", unparsable
		}
		return n, "", ""
	}
	return 0, "int_type", "must be an integer"
}

// plainDigits strips what Python's int() lets through around and between
// digits; ok is false if the rest is not [-]digits[.zeros].
func plainDigits(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") || strings.Contains(s, "__") {
		return "", false
	}
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	if strings.HasPrefix(s, "_") {
		return "", false
	}
	s = strings.ReplaceAll(s, "_", "")
	whole, frac, dotted := strings.Cut(s, ".")
	if !isDigits(whole) || dotted && (!isDigits(frac) || strings.Trim(frac, "0") != "") {
		return "", false
	}
	if negative {
		whole = "-" + whole
	}
	return whole, true
}

// wholeNumber reads the text of a JSON number that must have no fraction.
func wholeNumber(text string) (n int64, kind, message string) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, "", ""
	}
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil: // beyond a double
		return saturate(text), "", ""
	case f != math.Trunc(f):
		return 0, "int_from_float", "must be an integer, not a number with a fraction"
	case f >= math.MaxInt64 || f <= math.MinInt64:
		return saturate(text), "", ""
	}
	return int64(f), "", ""
}

func saturate(text string) int64 {
	if strings.HasPrefix(text, "-") {
		return math.MinInt64
	}
	return math.MaxInt64
}

// laxTime reads a date-time as v1.3.0 does (core.md 4), text or Unix time, and
// returns it in UTC with microseconds. A time without zone is taken as UTC.
func laxTime(v jsontext.Value) (time.Time, bool) {
	text := v
	switch v.Kind() {
	case '0':
	case '"':
		var err error
		if text, err = jsontext.AppendUnquote(nil, v); err != nil {
			return time.Time{}, false
		}
	default:
		return time.Time{}, false
	}
	t, err := asap.ParseTimestamp(string(text))
	return t.UTC(), err == nil
}
