package sla

import (
	"math"
	"strconv"
	"time"
)

// Instant is a point in time in milliseconds UTC since 1970: what all rules count
// in. As text it is RFC 3339 with milliseconds where there are any.
type Instant int64

// never is later than every instant that occurs.
const never = Instant(math.MaxInt64)

// InstantOf is the millisecond that t lies in.
func InstantOf(t time.Time) Instant { return Instant(t.UnixMilli()) }

// Time is the instant as a time in UTC.
func (t Instant) Time() time.Time { return time.UnixMilli(int64(t)).UTC() }

// String is the RFC 3339 text.
func (t Instant) String() string {
	if t%1000 == 0 {
		return t.Time().Format("2006-01-02T15:04:05Z")
	}
	return t.Time().Format("2006-01-02T15:04:05.000Z")
}

// MarshalText writes the RFC 3339 text.
func (t Instant) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads an RFC 3339 text; what is below a millisecond is cut off.
func (t *Instant) UnmarshalText(text []byte) error {
	at, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return err
	}
	*t = InstantOf(at)
	return nil
}

// Seconds is a length of time in milliseconds that is shown in seconds.
type Seconds int64

// MarshalJSON writes seconds, with a fraction only where there is one.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(s)/1000, 'f', -1, 64), nil
}

// UnmarshalJSON reads seconds.
func (s *Seconds) UnmarshalJSON(text []byte) error {
	seconds, err := strconv.ParseFloat(string(text), 64)
	*s = Seconds(math.Round(seconds * 1000))
	return err
}

const (
	second = 1000
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
)
