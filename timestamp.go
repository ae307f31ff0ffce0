package asap

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// zonelessName marks the location of a time that was sent without a zone.
const zonelessName = "zoneless"

// zoneless is UTC under another name: the instant is right, and the text can be
// written as it came. Never changed.
var zoneless = time.FixedZone(zonelessName, 0)

// ErrTimestamp reports a text or number that v1.3.0 does not take as a
// date-time.
var ErrTimestamp = errors.New("not a date-time")

// Zoneless reports whether t was parsed from a text without a zone. Such a time
// counts as UTC and is written without a suffix.
func Zoneless(t time.Time) bool { return t.Location().String() == zonelessName }

// ParseTimestamp reads a date-time text in every form v1.3.0 accepts (core.md
// section 4): date and time separated by T, t, blank or underscore, optional
// seconds and fraction (cut at microseconds), zone Z, z, ±HH:MM, ±HHMM or none;
// a date alone; or digits, as Unix seconds, or milliseconds beyond 2·10^10.
// The zone is kept; see [Zoneless].
func ParseTimestamp(s string) (time.Time, error) {
	if t, ok := parseDateTime(s); ok {
		return t, nil
	}
	if isDecimal(s) {
		if t, issue := unixText(s); issue == "" {
			return t, nil
		}
	}
	return time.Time{}, ErrTimestamp
}

// AppendTimestamp appends t as v1.3.0's JSON mode writes it: Z for UTC, the
// offset otherwise, nothing for [Zoneless]; microseconds only when they are not
// zero, and then six digits. No quotes.
func AppendTimestamp(dst []byte, t time.Time) []byte {
	dst = appendDateTime(dst, t)
	if Zoneless(t) {
		return dst
	}
	if _, offset := t.Zone(); offset == 0 {
		return append(dst, 'Z')
	}
	return t.AppendFormat(dst, "-07:00")
}

// FormatTimestamp is AppendTimestamp as a string.
func FormatTimestamp(t time.Time) string { return string(AppendTimestamp(nil, t)) }

// FormatISO is Python's isoformat: like FormatTimestamp, with +00:00 for UTC.
func FormatISO(t time.Time) string {
	dst := appendDateTime(nil, t)
	if Zoneless(t) {
		return string(dst)
	}
	return string(t.AppendFormat(dst, "-07:00"))
}

func appendDateTime(dst []byte, t time.Time) []byte {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = appendDigits(dst, year, 4)
	dst = append(dst, '-')
	dst = appendDigits(dst, int(month), 2)
	dst = append(dst, '-')
	dst = appendDigits(dst, day, 2)
	dst = append(dst, 'T')
	dst = appendDigits(dst, hour, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, minute, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, second, 2)
	if us := t.Nanosecond() / 1000; us != 0 {
		dst = append(dst, '.')
		dst = appendDigits(dst, us, 6)
	}
	return dst
}

// appendDigits appends the last width digits of n.
func appendDigits(dst []byte, n, width int) []byte {
	start := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; i >= start; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}

// scanner reads fixed-width digits.
type scanner struct {
	s  string
	i  int
	ok bool
}

func (c *scanner) digits(width int) int {
	n := 0
	for range width {
		if c.i >= len(c.s) || c.s[c.i] < '0' || c.s[c.i] > '9' {
			c.ok = false
			return 0
		}
		n = n*10 + int(c.s[c.i]-'0')
		c.i++
	}
	return n
}

func (c *scanner) peek(set string) bool {
	return c.i < len(c.s) && strings.IndexByte(set, c.s[c.i]) >= 0
}

func (c *scanner) take(set string) {
	if !c.peek(set) {
		c.ok = false
		return
	}
	c.i++
}

func parseDateTime(s string) (time.Time, bool) {
	c := scanner{s: s, ok: true}
	year := c.digits(4)
	c.take("-")
	month := c.digits(2)
	c.take("-")
	day := c.digits(2)
	if !c.ok || year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return time.Time{}, false
	}
	if c.i == len(s) {
		return time.Date(year, time.Month(month), day, 0, 0, 0, 0, zoneless), true
	}
	c.take("Tt _")
	hour := c.digits(2)
	c.take(":")
	minute := c.digits(2)
	second, us := 0, 0
	if c.peek(":") {
		c.i++
		second = c.digits(2)
		if c.peek(".,") {
			c.i++
			us = c.fraction()
		}
	}
	if !c.ok || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	zone := c.zone()
	if !c.ok || c.i != len(s) {
		return time.Time{}, false
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, us*1000, zone), true
}

// fraction reads one or more digits as microseconds; those past the sixth are
// cut off.
func (c *scanner) fraction() int {
	us, width := 0, 0
	for ; c.i < len(c.s) && c.s[c.i] >= '0' && c.s[c.i] <= '9'; c.i++ {
		if width < 6 {
			us = us*10 + int(c.s[c.i]-'0')
		}
		width++
	}
	if width == 0 {
		c.ok = false
	}
	for ; width < 6; width++ {
		us *= 10
	}
	return us
}

// zone reads Z, z, ±HH:MM, ±HHMM or nothing.
func (c *scanner) zone() *time.Location {
	switch {
	case c.i == len(c.s):
		return zoneless
	case c.peek("Zz"):
		c.i++
		return time.UTC
	}
	negative := c.peek("-")
	c.take("+-")
	hours := c.digits(2)
	if c.peek(":") {
		c.i++
	}
	minutes := c.digits(2)
	if !c.ok || hours > 23 || minutes > 59 {
		c.ok = false
		return time.UTC
	}
	offset := hours*3600 + minutes*60
	if offset == 0 {
		return time.UTC
	}
	if negative {
		offset = -offset
	}
	return time.FixedZone("", offset)
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// isDecimal reports whether s is digits with an optional sign and fraction.
func isDecimal(s string) bool {
	s = strings.TrimPrefix(s, "-")
	whole, fraction, _ := strings.Cut(s, ".")
	return whole+fraction != "" && strings.Trim(whole+fraction, "0123456789") == ""
}

const (
	unixWatershed = 20_000_000_000  // beyond it a number counts milliseconds
	unixMin       = -11_676_096_000 // 1600-01-01
	unixMax       = 253_402_300_799 // 9999-12-31T23:59:59
)

// unixText reads a decimal number as Unix time.
func unixText(s string) (time.Time, string) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		sec, us := n, int64(0)
		if n > unixWatershed || n < -unixWatershed {
			sec, us = n/1000, n%1000*1000
		}
		return unixTime(sec, us)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.Abs(f) > 1e18 {
		return time.Time{}, "datetime_parsing"
	}
	whole := math.Floor(f)
	us := int64(math.Round((f - whole) * 1e6))
	sec := int64(whole)
	if sec > unixWatershed || sec < -unixWatershed {
		return unixTime(sec/1000, sec%1000*1000+us/1000)
	}
	return unixTime(sec, us)
}

func unixTime(sec, us int64) (time.Time, string) {
	if sec < unixMin || sec > unixMax {
		return time.Time{}, "datetime_parsing"
	}
	return time.Unix(sec, us*1000).UTC(), ""
}

// laxTime reads a date-time member.
func laxTime(v jsontext.Value) (t time.Time, issue string) {
	switch kindOf(v) {
	case '"':
		t, err := ParseTimestamp(string(unquote(v)))
		if err != nil {
			return time.Time{}, "datetime_from_date_parsing"
		}
		return t, ""
	case '0':
		return unixText(string(v))
	}
	return time.Time{}, "datetime_type"
}

// time reads a date-time; false if there is none or it is wrong.
func (o *object) time(i int) (time.Time, bool) {
	v := o.value(i)
	if v == nil {
		return time.Time{}, false
	}
	t, issue := laxTime(v)
	switch issue {
	case "":
		return t, true
	case "datetime_from_date_parsing":
		o.fail(i, issue, "Input should be a valid datetime or date")
	case "datetime_parsing":
		o.fail(i, issue, "Input should be a valid datetime, dates before 1600 or after 9999 are not supported as unix timestamps")
	default:
		o.fail(i, issue, "Input should be a valid datetime")
	}
	return time.Time{}, false
}
