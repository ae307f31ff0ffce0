package client

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RetryPolicy says how often and how patiently a [Client] tries. Only what may
// succeed the next time is retried: connection errors, time-outs, statuses 5xx
// and 429. Each attempt sends identical bytes.
type RetryPolicy struct {
	// Attempts is the number of tries in all; 1 means no retry.
	Attempts int
	// Base is the wait after the first attempt; it doubles with each further one.
	Base time.Duration
	// Max bounds a wait. If the server asks for a longer one (Retry-After), the
	// call ends with its refusal at once, RetryAfter filled in.
	Max time.Duration
	// Jitter returns a number in [0, 1); a tenth of it, as a share of the wait,
	// is added so that callers do not come back in step. Nil means random.
	Jitter func() float64
}

// DefaultRetryPolicy is that of v1.3.0: 3 attempts, waits of 1 s, 2 s … up to
// 60 s, and up to 10 % of jitter.
func DefaultRetryPolicy() RetryPolicy {
	return RetryPolicy{Attempts: 3, Base: time.Second, Max: time.Minute}
}

// wait returns the pause after attempt n (counted from 1), with jitter in [0,1).
func (p RetryPolicy) wait(n int, jitter float64) time.Duration {
	d := p.Base
	for i := 1; i < n && d < p.Max; i++ {
		d *= 2
	}
	d = min(d, p.Max)
	return d + time.Duration(float64(d)*jitter/10)
}

// retryable reports whether a status may change by itself.
func retryable(status int) bool {
	return status >= 500 || status == http.StatusTooManyRequests
}

// retryAfter reads the header of that name: whole seconds, or an HTTP date. 0
// if there is none, or it is in the past or makes no sense.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// sleep waits for d or until ctx ends, and returns the error of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
