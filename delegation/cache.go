package delegation

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a Verifier's cache.
const (
	// CacheEntries and CacheBytes bound the tokens kept.
	CacheEntries = 64 << 10
	CacheBytes   = 64 << 20
	// CacheLife is the longest time a verified token is kept. Reading an entry
	// never extends it, and an entry never outlives its token.
	CacheLife = 5 * time.Minute
	// NegativeEntries and NegativeLife bound the forged tokens remembered.
	NegativeEntries = 4 << 10
	NegativeLife    = 10 * time.Second

	cacheShards  = 16
	prefixShare  = 4 // prefixes get a quarter of the entries and bytes
	entryBytes   = 512
	perLinkBytes = 640
)

// Verifier judges tokens as [Verify] does, and remembers the signatures it has
// verified. It keeps only what depends on the text of a token and on the keys:
// the caller, the action, the time, the roots, every link's revocation and the
// issuers' key epochs are checked each time. It is safe for concurrent use; a
// token that many ask about at once is verified once.
type Verifier struct {
	policy      Policy
	generations GenerationSource // the policy's keys, if they tell of all issuers at once
	seed        maphash.Seed
	shards      [cacheShards]cacheShard
}

type cacheShard struct {
	good, prefixes, bad store

	mu      sync.Mutex
	flights map[string]*flight // guarded by mu
}

// flight is one verification under way. verdict and refusal are written before
// done is closed; both are nil if the verification panicked.
type flight struct {
	done    chan struct{}
	verdict *verdict
	refusal *Refusal
}

// NewVerifier returns a verifier for the policy, whose functions must not
// change their meaning but through key epochs, roots and revocations.
func NewVerifier(p Policy) *Verifier {
	v := &Verifier{policy: p, seed: maphash.MakeSeed()}
	v.generations, _ = p.Keys.(GenerationSource)
	for i := range v.shards {
		s := &v.shards[i]
		s.flights = make(map[string]*flight)
		s.good.init(CacheEntries/cacheShards, CacheBytes/cacheShards/prefixShare*(prefixShare-1))
		s.prefixes.init(CacheEntries/cacheShards/prefixShare, CacheBytes/cacheShards/prefixShare)
		s.bad.init(NegativeEntries/cacheShards, CacheBytes/cacheShards)
	}
	return v
}

// Policy returns the policy the verifier applies.
func (v *Verifier) Policy() Policy { return v.policy }

// Verify judges a token, see [Verify]. A token seen before costs no signature
// check and no allocation if it is accepted.
func (v *Verifier) Verify(token string, q Query) (*Grant, error) {
	if len(token) > MaxTokenBytes {
		_, r := measure(token)
		return nil, r
	}
	found, r := v.lookup(token, q.Now.Unix())
	if r == nil {
		r = found.judge(token, &v.policy, &q)
	}
	if r != nil {
		return nil, r
	}
	return &found.grant, nil
}

// cacheKey is the part of a token under which it is kept: the last signature,
// so that a hit need not hash kilobytes. Who holds no key of the last issuer
// cannot make another token of the same signature that verifies; the whole
// token is compared all the same.
func cacheKey(token string) string { return token[max(0, len(token)-signatureTextLen):] }

func (v *Verifier) shard(token string) *cacheShard {
	return &v.shards[maphash.String(v.seed, cacheKey(token))%cacheShards]
}

func (v *Verifier) lookup(token string, now int64) (*verdict, *Refusal) {
	s := v.shard(token)
	if found := s.good.get(token, now); found != nil && v.current(found) {
		return found, nil
	}
	if found := s.bad.get(token, now); found != nil && v.current(found) {
		return found, nil
	}
	for {
		s.mu.Lock()
		if f := s.flights[token]; f != nil {
			s.mu.Unlock()
			if <-f.done; f.verdict != nil || f.refusal != nil {
				return f.verdict, f.refusal
			}
			continue
		}
		f := &flight{done: make(chan struct{})}
		token = strings.Clone(token)
		s.flights[token] = f
		s.mu.Unlock()
		return v.fly(s, f, token, now)
	}
}

func (v *Verifier) fly(s *cacheShard, f *flight, token string, now int64) (*verdict, *Refusal) {
	defer func() {
		s.mu.Lock()
		delete(s.flights, token)
		s.mu.Unlock()
		close(f.done)
	}()
	found, r := analyse(token, &v.policy, v.prefix(token, now))
	if r == nil {
		v.keep(s, token, found, now)
	}
	f.verdict, f.refusal = found, r
	return found, r
}

// current tells whether no issuer's keys have changed since the verdict.
func (v *Verifier) current(d *verdict) bool {
	var generation uint64
	if v.generations != nil {
		if generation = v.generations.Generation(); generation == d.generation.Load() {
			return true
		}
	}
	for i := range d.grant.links {
		if v.policy.Keys.Epoch(d.grant.links[i].Issuer) != d.epochs[i] {
			return false
		}
	}
	if v.generations != nil { // read before the epochs: what has changed since is seen next time
		d.generation.Store(generation)
	}
	return true
}

// prefix finds the verdict about as many first links of the token as are known.
func (v *Verifier) prefix(token string, now int64) *verdict {
	for {
		end := strings.LastIndexByte(token, Separator[0])
		if end < 0 {
			return nil
		}
		token = token[:end]
		s := v.shard(token)
		for _, from := range []*store{&s.good, &s.prefixes} {
			if found := from.get(token, now); found != nil && v.current(found) {
				return found
			}
		}
	}
}

// keep stores a verdict whose signatures have been checked.
func (v *Verifier) keep(s *cacheShard, token string, d *verdict, now int64) {
	if d.early != nil {
		s.bad.put(&entry{token: token, verdict: d, start: now, end: now + int64(NegativeLife/time.Second)})
		return
	}
	end := min(d.earliestEnd, now+int64(CacheLife/time.Second))
	if end <= now {
		return
	}
	s.good.put(&entry{token: token, verdict: d, start: now, end: end})
	for n := len(d.grant.links) - 1; n > 0; n-- {
		token = token[:strings.LastIndexByte(token, Separator[0])]
		above := &verdict{grant: Grant{Chain{links: d.grant.links[:n:n]}}, epochs: d.epochs}
		if d.unbound != nil && d.unbound.Link < n {
			above.unbound = d.unbound
		}
		v.shard(token).prefixes.put(&entry{token: token, verdict: above, start: now, end: end})
	}
}

// Len is the number of tokens kept as verified.
func (v *Verifier) Len() int {
	n := 0
	for i := range v.shards {
		n += v.shards[i].good.len()
	}
	return n
}

// store is a bounded map of entries; the clock algorithm chooses what goes.
type store struct {
	maxEntries int
	maxBytes   int

	mu      sync.RWMutex
	entries map[string]*entry // by cacheKey, guarded by mu
	ring    []*entry          // the same entries, guarded by mu
	hand    int               // guarded by mu
	bytes   int               // guarded by mu
}

// entry holds from start (inclusive) to end (exclusive), in Unix seconds.
type entry struct {
	token      string
	verdict    *verdict
	start, end int64
	used       atomic.Bool
	slot       int // index in the ring, guarded by the store's mu
}

func (e *entry) size() int {
	return entryBytes + 2*len(e.token) + perLinkBytes*len(e.verdict.grant.links)
}

func (s *store) init(entries, bytes int) {
	s.maxEntries, s.maxBytes = entries, bytes
	s.entries = make(map[string]*entry)
}

func (s *store) get(token string, now int64) *verdict {
	s.mu.RLock()
	e := s.entries[cacheKey(token)]
	s.mu.RUnlock()
	if e == nil || e.token != token || now < e.start || now >= e.end {
		return nil
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.verdict
}

func (s *store) put(e *entry) {
	size := e.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[cacheKey(e.token)]; old != nil {
		s.remove(old)
	}
	for len(s.ring) > 0 && (len(s.ring) >= s.maxEntries || s.bytes+size > s.maxBytes) {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		if victim := s.ring[s.hand]; victim.used.Swap(false) {
			s.hand++
		} else {
			s.remove(victim)
		}
	}
	e.slot = len(s.ring)
	s.ring = append(s.ring, e)
	s.entries[cacheKey(e.token)] = e
	s.bytes += size
	if last := e.slot; s.hand < last { // behind the hand: the last to be looked at
		s.ring[s.hand], s.ring[last] = e, s.ring[s.hand]
		s.ring[last].slot, e.slot = last, s.hand
		s.hand++
	}
}

// remove takes an entry out; mu is held.
func (s *store) remove(e *entry) {
	last := len(s.ring) - 1
	s.ring[e.slot] = s.ring[last]
	s.ring[e.slot].slot = e.slot
	s.ring[last] = nil
	s.ring = s.ring[:last]
	delete(s.entries, cacheKey(e.token))
	s.bytes -= e.size()
}

func (s *store) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.entries)
}
