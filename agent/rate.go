package agent

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxPeers bounds how many agents, and how many addresses, have a bucket of
// their own.
const maxPeers = 10_000

// pruneEvery bounds how often a full set of buckets is searched for idle ones,
// so that a flood from many addresses does not pay with everybody's time.
const pruneEvery = time.Second

// RateLimiter is one token bucket per caller: an agent that proved its name, or
// else an address (of IPv6, its network of 64 bits). When there are too many,
// idle ones are forgotten; if none is idle, new ones share one bucket. Addresses
// do not take the room of agents. It is safe for concurrent use.
type RateLimiter struct {
	perSecond float64
	burst     int

	mu        sync.Mutex // guards both sets
	agents    bucketSet
	addresses bucketSet
}

type bucketSet struct {
	buckets  map[string]*rate.Limiter
	shared   *rate.Limiter
	prunedAt time.Time
}

// NewRateLimiter returns a limiter that lets each caller have burst requests at
// once and perSecond in the long run; both are more than 0.
func NewRateLimiter(perSecond float64, burst int) *RateLimiter {
	set := func() bucketSet {
		return bucketSet{buckets: make(map[string]*rate.Limiter), shared: rate.NewLimiter(rate.Limit(perSecond), burst)}
	}
	return &RateLimiter{perSecond: perSecond, burst: burst, agents: set(), addresses: set()}
}

// Allow takes a token for the request of a caller. When there is none it returns
// the whole seconds, at least one, after which there will be.
func (p *RateLimiter) Allow(r *http.Request, caller Caller, now time.Time) (retryAfterSeconds int, ok bool) {
	if caller.Verified {
		return p.take(&p.agents, string(caller.URN), now)
	}
	return p.take(&p.addresses, peerNetwork(peer(r)), now)
}

// peerNetwork is what an address counts as: whoever has one of IPv6 has 2^64.
func peerNetwork(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Unmap().Is4() {
		return address
	}
	prefix, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return address
	}
	return prefix.String()
}

func (p *RateLimiter) take(set *bucketSet, name string, now time.Time) (retryAfterSeconds int, ok bool) {
	p.mu.Lock()
	bucket := set.buckets[name]
	if bucket == nil {
		if len(set.buckets) >= maxPeers && now.Sub(set.prunedAt).Abs() >= pruneEvery {
			set.prunedAt = now
			for name, b := range set.buckets {
				if b.TokensAt(now) >= float64(p.burst) {
					delete(set.buckets, name)
				}
			}
		}
		if bucket = set.shared; len(set.buckets) < maxPeers {
			bucket = rate.NewLimiter(rate.Limit(p.perSecond), p.burst)
			set.buckets[name] = bucket
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
