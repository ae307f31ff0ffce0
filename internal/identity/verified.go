package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"strings"
	"sync"

	"github.com/asap-protocol/asap-go/delegation"
)

// Bounds of what is remembered of tokens: callers send theirs with every request
// until it is renewed.
const (
	maxVerified      = 8 << 10
	maxVerifiedBytes = 1 << 10 // of one token
)

// verifiedTokens remembers tokens of agents and the key that has verified the
// signature of each. That is all it remembers: whether the key is still one of
// the agent's and everything the claims say is judged each time. The zero value
// is empty. When it is full it begins anew, so that nobody can keep others out.
type verifiedTokens struct {
	mu     sync.RWMutex
	tokens map[string]verifiedToken // guarded by mu
}

type verifiedToken struct {
	parsed *delegation.AgentToken // not changed
	key    ed25519.PublicKey
}

func (v *verifiedTokens) get(token string) (verifiedToken, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	found, ok := v.tokens[token]
	return found, ok
}

func (v *verifiedTokens) put(token string, t verifiedToken) {
	if len(token) > maxVerifiedBytes {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tokens == nil || len(v.tokens) >= maxVerified {
		v.tokens = map[string]verifiedToken{}
	}
	v.tokens[strings.Clone(token)] = t // the rest of the header need not stay
}

// maxSoundKeys bounds how many keys of other sources than the files are known to
// be sound.
const maxSoundKeys = 64 << 10

// soundKeys remembers which keys [delegation.CheckKey] has found sound, which
// takes it as long as verifying a signature. The zero value is empty.
type soundKeys struct {
	mu   sync.RWMutex
	keys map[[sha256.Size]byte]bool // guarded by mu
}

func (s *soundKeys) check(key ed25519.PublicKey) bool {
	id := sha256.Sum256(key) // a key of any length, as a source may have it
	s.mu.RLock()
	sound, known := s.keys[id]
	s.mu.RUnlock()
	if known {
		return sound
	}
	sound = delegation.CheckKey(key) == nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil || len(s.keys) >= maxSoundKeys {
		s.keys = map[[sha256.Size]byte]bool{}
	}
	s.keys[id] = sound
	return sound
}
