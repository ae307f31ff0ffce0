package metering

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
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
		n, kind, message = wholeNumber(text)
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

// laxTime reads a date-time as v1.3.0 does (core.md 4) and returns it in UTC
// with microseconds. A time without zone is taken as UTC.
func laxTime(v jsontext.Value) (time.Time, bool) {
	switch v.Kind() {
	case '0':
		return unixTime(string(v))
	case '"':
		s, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return time.Time{}, false
		}
		t, _, ok := ParseTime(string(s))
		return t, ok
	}
	return time.Time{}, false
}

// ParseTime reads the text of a date-time in every form v1.3.0 accepts
// (core.md 4). zoned tells whether it says its offset; digits alone are Unix
// time and count as zoned. Without a zone the result is the clock face in UTC.
func ParseTime(s string) (t time.Time, zoned, ok bool) {
	if t, ok := unixTime(s); ok {
		return t, true, true
	}
	if len(s) < len("2006-01-02") {
		return time.Time{}, false, false
	}
	date, rest := s[:10], s[10:]
	if rest == "" {
		t, err := time.Parse("2006-01-02", date)
		return t, false, err == nil
	}
	if strings.IndexByte("Tt _", rest[0]) < 0 {
		return time.Time{}, false, false
	}
	clock, frac, offset, zoned, ok := splitClock(rest[1:])
	if !ok {
		return time.Time{}, false, false
	}
	t, err := time.Parse("2006-01-02T15:04:05", date+"T"+clock)
	if err != nil {
		return time.Time{}, false, false
	}
	return t.Add(frac - offset), zoned, true
}

// splitClock takes HH:MM[:SS[.f…]][zone] apart.
func splitClock(s string) (clock string, frac, offset time.Duration, zoned, ok bool) {
	if len(s) < 5 {
		return "", 0, 0, false, false
	}
	clock, s = s[:5], s[5:]
	if len(s) > 0 && s[0] == ':' {
		if len(s) < 3 {
			return "", 0, 0, false, false
		}
		clock, s = clock+s[:3], s[3:]
		if len(s) > 0 && (s[0] == '.' || s[0] == ',') {
			n := 1
			for n < len(s) && s[n] >= '0' && s[n] <= '9' {
				n++
			}
			digits := (s[1:n] + "000000")[:6]
			if n == 1 {
				return "", 0, 0, false, false
			}
			us, _ := strconv.Atoi(digits)
			frac, s = time.Duration(us)*time.Microsecond, s[n:]
		}
	} else {
		clock += ":00"
	}
	switch {
	case s == "":
		return clock, frac, 0, false, true
	case s == "Z" || s == "z":
		return clock, frac, 0, true, true
	}
	offset, ok = parseOffset(s)
	return clock, frac, offset, true, ok
}

// parseOffset reads ±HH:MM or ±HHMM.
func parseOffset(s string) (time.Duration, bool) {
	if len(s) == 6 && s[3] == ':' {
		s = s[:3] + s[4:]
	}
	if len(s) != 5 || s[0] != '+' && s[0] != '-' || !isDigits(s[1:]) {
		return 0, false
	}
	hours, _ := strconv.Atoi(s[1:3])
	minutes, _ := strconv.Atoi(s[3:])
	if hours > 23 || minutes > 59 {
		return 0, false
	}
	d := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	if s[0] == '-' {
		d = -d
	}
	return d, true
}

// unixTime reads Unix time: seconds up to 2*10^10, milliseconds above.
func unixTime(s string) (time.Time, bool) {
	const watershed = 20_000_000_000
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || strings.Trim(s, "-+.0123456789eE") != "" || s[0] == '+' || math.Abs(f) > 1e15 {
		return time.Time{}, false
	}
	us := math.Round(f * 1e6)
	if math.Abs(f) > watershed {
		us = math.Round(f * 1e3)
	}
	t := time.UnixMicro(int64(us)).UTC()
	return t, t.Year() >= 1 && t.Year() <= 9999
}
