package asap

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// The replay window (core.md 18); both bounds are inclusive.
const (
	MaxEnvelopeAge = 300 * time.Second
	MaxFutureSkew  = 30 * time.Second
	NonceLifetime  = 600 * time.Second
	maxNonceQuoted = 64
	extensionNonce = "nonce"
)

// CheckTimestamp returns nil if the envelope is fresh at now: at most
// [MaxEnvelopeAge] old and at most [MaxFutureSkew] ahead. A sender that left the
// timestamp out passes, as in v1.3.0. The error is an *Error of
// CodeInvalidTimestamp with v1.3.0's details.
func (e *Envelope) CheckTimestamp(now time.Time) error {
	if !e.TimestampSet {
		return nil
	}
	// Microseconds, because a Duration ends at 292 years and timestamps do not.
	age := microseconds(now.UnixMicro() - e.Timestamp.UnixMicro())
	switch {
	case age > microseconds(MaxEnvelopeAge/time.Microsecond):
		return e.stale("Envelope timestamp is too old: "+oneDecimal(age)+" seconds (max: 300 seconds)",
			"age_seconds", age, "max_age_seconds", MaxEnvelopeAge)
	case -age > microseconds(MaxFutureSkew/time.Microsecond):
		return e.stale("Envelope timestamp is too far in the future: "+oneDecimal(-age)+" seconds (max tolerance: 30 seconds)",
			"future_offset_seconds", -age, "max_future_tolerance_seconds", MaxFutureSkew)
	}
	return nil
}

func (e *Envelope) stale(message, name string, offset microseconds, limitName string, limit time.Duration) error {
	at := e.Timestamp
	if Zoneless(at) {
		at = at.UTC()
	}
	d := append([]byte(nil), `{"timestamp":`...)
	d = appendString(d, FormatISO(at))
	d = append(d, ',')
	d = appendString(d, name)
	d = append(d, ':')
	d = jsontext.AppendFloat(d, offset.seconds(), 64)
	d = append(d, `,"envelope_id":`...)
	d = appendString(d, string(e.ID))
	d = append(d, ',')
	d = appendString(d, limitName)
	d = append(d, ':')
	d = strconv.AppendInt(d, int64(limit/time.Second), 10)
	return &Error{Code: CodeInvalidTimestamp, Message: message, Details: append(d, '}')}
}

// microseconds is a span of time, of any length.
type microseconds int64

func (us microseconds) seconds() float64 { return float64(us) / 1e6 }

func oneDecimal(us microseconds) string { return strconv.FormatFloat(us.seconds(), 'f', 1, 64) }

// Nonce returns the nonce in the extensions; false if there is none. A nonce
// that is not a non-empty string is an *Error of CodeInvalidNonce.
func (e *Envelope) Nonce() (string, bool, error) {
	for w := walkObject(e.Extensions); w.next(); {
		if string(w.name) != extensionNonce {
			continue
		}
		if kindOf(w.value) != '"' {
			return "", false, e.nonceError("Nonce must be a non-empty string", "")
		}
		nonce := string(unquote(w.value))
		if nonce == "" {
			return "", false, e.nonceError("Nonce must be a non-empty string, got empty string", "")
		}
		return nonce, true, nil
	}
	return "", false, nil
}

// DuplicateNonce is the refusal of an envelope whose nonce was seen before.
func (e *Envelope) DuplicateNonce(nonce string) *Error {
	return e.nonceError("Duplicate nonce detected", nonce)
}

func (e *Envelope) nonceError(message, nonce string) *Error {
	d := append([]byte(nil), `{"nonce":`...)
	d = appendString(d, cut(nonce, maxNonceQuoted))
	d = append(d, `,"envelope_id":`...)
	d = appendString(d, string(e.ID))
	return &Error{Code: CodeInvalidNonce, Message: message, Details: append(d, '}')}
}
