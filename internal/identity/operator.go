package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How often wrong tokens make the stored one be read again: a guesser must not
// keep the disk busy, nor keep a new token from being noticed.
const (
	rereadsPerSecond = 20
	rereadBurst      = 20
)

// OperatorToken recognises the operator's bearer token without holding it. When
// a token does not match, the stored one is read again, within bounds, so that a
// rotated token is good at once. It is safe for concurrent use.
type OperatorToken struct {
	read  func() (string, error)
	reads *rate.Limiter

	mu     sync.Mutex
	digest [sha256.Size]byte
	known  bool
	turns  int
}

// NewOperatorToken returns a recogniser of the token that read returns. While
// read fails, the token it returned before stays good.
func NewOperatorToken(read func() (string, error)) *OperatorToken {
	return &OperatorToken{read: read, reads: rate.NewLimiter(rereadsPerSecond, rereadBurst)}
}

// Is tells whether token is the operator's. The time it takes does not depend on
// how much of it is right.
func (o *OperatorToken) Is(token string, now time.Time) bool {
	digest := sha256.Sum256([]byte(token))
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.matches(digest) {
		return true
	}
	// A JWT, which has dots, is no sign of a new operator token.
	if strings.Contains(token, ".") || !o.reads.AllowN(now, 1) || o.reload() != nil {
		return false
	}
	return o.matches(digest)
}

// Reload reads the stored token now.
func (o *OperatorToken) Reload() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reload()
}

func (o *OperatorToken) matches(digest [sha256.Size]byte) bool {
	return subtle.ConstantTimeCompare(digest[:], o.digest[:]) == 1 && o.known
}

// reload reads the stored token. mu is held.
func (o *OperatorToken) reload() error {
	token, err := o.read()
	if err == nil && token != "" {
		digest := sha256.Sum256([]byte(token))
		if o.known && digest != o.digest {
			o.turns++
		}
		o.digest, o.known = digest, true
	}
	return err
}

// Rotations returns how often the token has become another one.
func (o *OperatorToken) Rotations() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.turns
}
