package agent

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxPeers bounds how many peers have a bucket of their own.
const maxPeers = 10_000

// peerLimits is one token bucket per peer. When there are too many peers, idle
// ones are forgotten; if none is idle, new ones share one bucket.
type peerLimits struct {
	perSecond float64
	burst     int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
	shared  *rate.Limiter
}

func newPeerLimits(perSecond float64, burst int) *peerLimits {
	return &peerLimits{perSecond: perSecond, burst: burst, buckets: make(map[string]*rate.Limiter),
		shared: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

// allow takes a token for peer. When there is none it returns the whole
// seconds, at least one, after which there will be.
func (p *peerLimits) allow(peer string, now time.Time) (retryAfter int, ok bool) {
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
