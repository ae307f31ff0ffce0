package delegation

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"sync"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
)

// Key is one public key of an issuer.
type Key struct {
	// ID is the kid under which the issuer names it, or "".
	ID string
	// Public verifies the issuer's signatures.
	Public ed25519.PublicKey
}

// KeySource finds the keys of issuers. It is used by many goroutines at once,
// answers from memory, and must not block.
type KeySource interface {
	// Keys returns the keys that may have signed a link of the issuer whose
	// header names keyID ("" if it names none); empty if there are none. The
	// slice is read only.
	Keys(issuer asap.AgentURN, keyID string) []Key
	// Epoch is a number that changes whenever a key of the issuer is added,
	// replaced or withdrawn. What was verified in another epoch is verified
	// anew.
	Epoch(issuer asap.AgentURN) uint64
}

// GenerationSource is a [KeySource] that can tell of all its issuers at once
// whether anything may have changed.
type GenerationSource interface {
	KeySource
	// Generation is a number that changes whenever the epoch of any issuer may
	// have changed, and is never 0. While it stays, a [Verifier] does not ask for
	// the epochs of a token again.
	Generation() uint64
}

var (
	errKeyCanonical = errors.New("a key that is not in canonical form")
	errKeyPoint     = errors.New("a key that is no point of the curve")
)

// CheckKey tells whether a public key may be registered: canonical, a point of
// the curve, and not of small order.
func CheckKey(key ed25519.PublicKey) error {
	if err := asap.CheckPublicKey(key); err != nil {
		return err
	}
	// x^2 = (y^2-1)/(d*y^2+1) must have a root, and y be less than p.
	le := [32]byte(key)
	le[31] &= 0x7f
	for i, j := 0, 31; i < j; i, j = i+1, j-1 {
		le[i], le[j] = le[j], le[i]
	}
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)
	y := new(big.Int).SetBytes(le[:])
	if y.Cmp(p) >= 0 {
		return errKeyCanonical
	}
	y.Mul(y, y).Mod(y, p)
	v := new(big.Int).Mul(d, y)
	v.Add(v, one).Mod(v, p) // never 0, as -1/d is no square
	u := y.Sub(y, one)
	if x2 := u.Mul(u, v.ModInverse(v, p)).Mod(u, p); big.Jacobi(x2, p) < 0 {
		return errKeyPoint
	}
	return nil
}

// Thumbprint is the RFC 7638 thumbprint of an Ed25519 key in the form RFC 8037
// gives it, as cnf.jkt carries it.
func Thumbprint(key ed25519.PublicKey) string {
	text := `{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(key) + `"}`
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// KeyRing is a set of issuers' keys in memory and a [KeySource]. It is safe for
// concurrent use; the zero value is empty and ready.
type KeyRing struct {
	mu      sync.RWMutex
	issuers map[asap.AgentURN]*issuerKeys // guarded by mu
}

// issuerKeys holds keys without an ID first. Slices are replaced, never written.
type issuerKeys struct {
	keys    []Key
	unnamed int
	epoch   uint64
}

// Add registers a key of the agent. A key with the same ID takes the place of
// the one before; an agent may have one key without ID. An unusable key, see
// [CheckKey], is an error.
func (r *KeyRing) Add(agent asap.AgentURN, key Key) error {
	if err := CheckKey(key.Public); err != nil {
		return fmt.Errorf("key of %s: %w", agent, err)
	}
	key.Public = bytes.Clone(key.Public)
	r.change(agent, key.ID, &key)
	return nil
}

// Withdraw removes the agent's key of that ID. Everything signed with it is
// refused from now on. It reports whether there was one.
func (r *KeyRing) Withdraw(agent asap.AgentURN, keyID string) bool {
	return r.change(agent, keyID, nil)
}

func (r *KeyRing) change(agent asap.AgentURN, keyID string, key *Key) (removed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.issuers == nil {
		r.issuers = make(map[asap.AgentURN]*issuerKeys)
	}
	old := r.issuers[agent]
	if old == nil {
		old = &issuerKeys{}
	}
	next := &issuerKeys{epoch: old.epoch + 1}
	if key != nil && keyID == "" {
		next.keys = append(next.keys, *key)
	}
	for _, k := range old.keys {
		if k.ID == keyID {
			removed = true
			continue
		}
		next.keys = append(next.keys, k)
	}
	if key != nil && keyID != "" {
		next.keys = append(next.keys, *key)
	}
	if len(next.keys) > 0 && next.keys[0].ID == "" {
		next.unnamed = 1
	}
	r.issuers[agent] = next
	return removed
}

// Keys implements [KeySource]. A link that names a key gets that key, or, if
// the agent has no key of that ID, its key without ID; a link that names none
// gets all of the agent's keys.
func (r *KeyRing) Keys(issuer asap.AgentURN, keyID string) []Key {
	r.mu.RLock()
	have := r.issuers[issuer]
	r.mu.RUnlock()
	if have == nil {
		return nil
	}
	if keyID == "" {
		return have.keys
	}
	for i := range have.keys {
		if have.keys[i].ID == keyID {
			return have.keys[i : i+1]
		}
	}
	return have.keys[:have.unnamed]
}

// Epoch implements [KeySource].
func (r *KeyRing) Epoch(issuer asap.AgentURN) uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if have := r.issuers[issuer]; have != nil {
		return have.epoch
	}
	return 0
}

// keyEntry is an element of a key file's list.
type keyEntry struct {
	Agent     string `json:"agent"`
	PublicKey string `json:"public_key"`
	KeyID     string `json:"kid,omitempty"`
}

// ParseKeyFile reads {"keys": [{"agent": URN, "public_key": base64url or
// base64, "kid": optional}]}. Every entry must be usable.
func ParseKeyFile(text []byte) (*KeyRing, error) {
	var file struct {
		Keys []keyEntry `json:"keys"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	return ringOf(file.Keys)
}

func ringOf(entries []keyEntry) (*KeyRing, error) {
	if len(entries) == 0 {
		return nil, errors.New("key file: no keys")
	}
	ring := new(KeyRing)
	for i, e := range entries {
		urn, err := asap.ParseAgentURN(e.Agent)
		if err != nil {
			return nil, fmt.Errorf("key file: entry %d: %w", i, err)
		}
		public, err := asap.ParsePublicKey(e.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("key file: entry %d: %w", i, err)
		}
		if err := ring.Add(urn, Key{ID: e.KeyID, Public: public}); err != nil {
			return nil, fmt.Errorf("key file: entry %d: %w", i, err)
		}
	}
	return ring, nil
}
