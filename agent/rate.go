package agent

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxPeers bounds how many peers have a bucket of their own.
const maxPeers = 10_000

// RateLimiter is one token bucket per caller: an agent that proved its name, or
// else an address. When there are too many callers, idle ones are forgotten; if
// none is idle, new ones share one bucket. It is safe for concurrent use.
type RateLimiter struct {
	perSecond float64
	burst     int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
	shared  *rate.Limiter
}

// NewRateLimiter returns a limiter that lets each caller have burst requests at
// once and perSecond in the long run; both are more than 0.
func NewRateLimiter(perSecond float64, burst int) *RateLimiter {
	return &RateLimiter{perSecond: perSecond, burst: burst, buckets: make(map[string]*rate.Limiter),
		shared: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

// Allow takes a token for the request of a caller. When there is none it returns
// the whole seconds, at least one, after which there will be.
func (p *RateLimiter) Allow(r *http.Request, caller Caller, now time.Time) (retryAfterSeconds int, ok bool) {
	if caller.Verified {
		return p.allow(string(caller.URN), now)
	}
	return p.allow(peer(r), now)
}

func (p *RateLimiter) allow(peer string, now time.Time) (retryAfter int, ok bool) {
	p.mu.Lock()
	bucket := p.buckets[peer]
	if bucket == nil {
		if len(p.buckets) >= maxPeers {
			for name, b := range p.buckets {
				if b.TokensAt(now) >= float64(p.burst) {
					delete(p.buckets, name)
				}
			}
		}
		if bucket = p.shared; len(p.buckets) < maxPeers {
			bucket = rate.NewLimiter(rate.Limit(p.perSecond), p.burst)
			p.buckets[peer] = bucket
		}
	}
	p.mu.Unlock()
	if bucket.AllowN(now, 1) {
		return 0, true
	}
	missing := 1 - bucket.TokensAt(now)
	return max(1, int(math.Ceil(missing/p.perSecond))), false
}

// String is the limit in the words of v1.3.0.
func (p *RateLimiter) String() string {
	return strconv.FormatFloat(p.perSecond, 'f', -1, 64) + " per 1 second"
}
