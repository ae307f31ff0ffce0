package client

import (
	"sync"
	"time"
)

// breaker stops calls to an agent that does not answer. Closed, it counts
// failures in a row; at the threshold it opens, and until the cool-down is over
// nothing is tried; then a single trial decides. A nil breaker allows all.
type breaker struct {
	threshold int
	cooldown  time.Duration

	mu       sync.Mutex
	failures int       // in a row
	openedAt time.Time // zero while closed
	trial    bool      // the one call of the half-open state is under way
}

// allow reports whether a call may start at now. Each allowed call is concluded
// by exactly one of success, failure and release.
func (b *breaker) allow(now time.Time) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.openedAt.IsZero() {
		return true
	}
	if b.trial || now.Sub(b.openedAt) < b.cooldown {
		return false
	}
	b.trial = true
	return true
}

// success closes the circuit: the agent answered, if only to refuse.
func (b *breaker) success() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.openedAt, b.trial = 0, time.Time{}, false
}

// failure counts a call that got no usable answer.
func (b *breaker) failure(now time.Time) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	if b.trial || b.failures >= b.threshold {
		b.openedAt, b.trial = now, false
	}
}

// release concludes a call that says nothing about the agent, because the
// caller gave up.
func (b *breaker) release() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trial = false
}
