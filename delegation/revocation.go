package delegation

import (
	"bufio"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"sync"

	asap "github.com/asap-protocol/asap-go"
)

// RevocationSet is a set of revoked links in memory, keyed by issuer and token
// id. One entry also ends everything below that link, wherever it was made,
// because every link of a chain is looked up. It is safe for concurrent use; a
// link is revoked for everybody when Add returns.
type RevocationSet struct {
	seed   maphash.Seed
	shards [64]revocationShard
}

type revocationShard struct {
	mu      sync.RWMutex
	revoked map[linkKey]struct{} // guarded by mu
}

type linkKey struct {
	issuer  asap.AgentURN
	tokenID string
}

// NewRevocationSet returns an empty set.
func NewRevocationSet() *RevocationSet {
	s := &RevocationSet{seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].revoked = make(map[linkKey]struct{})
	}
	return s
}

func (s *RevocationSet) shard(tokenID string) *revocationShard {
	return &s.shards[maphash.String(s.seed, tokenID)%uint64(len(s.shards))]
}

// Add revokes the link, and reports whether it was not revoked before.
func (s *RevocationSet) Add(issuer asap.AgentURN, tokenID string) bool {
	shard := s.shard(tokenID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	key := linkKey{issuer, tokenID}
	_, had := shard.revoked[key]
	shard.revoked[key] = struct{}{}
	return !had
}

// Forget drops a link from the set. It is for links that have expired for good,
// since a revocation is never taken back.
func (s *RevocationSet) Forget(issuer asap.AgentURN, tokenID string) {
	shard := s.shard(tokenID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	delete(shard.revoked, linkKey{issuer, tokenID})
}

// Revoked tells whether the link is in the set. It has the form of
// [Policy.Revoked] and never fails.
func (s *RevocationSet) Revoked(issuer asap.AgentURN, tokenID string) (bool, error) {
	shard := s.shard(tokenID)
	shard.mu.RLock()
	_, revoked := shard.revoked[linkKey{issuer, tokenID}]
	shard.mu.RUnlock()
	return revoked, nil
}

// Len is the number of revoked links.
func (s *RevocationSet) Len() int {
	n := 0
	for i := range s.shards {
		s.shards[i].mu.RLock()
		n += len(s.shards[i].revoked)
		s.shards[i].mu.RUnlock()
	}
	return n
}

// ParseRevocations reads lines of the form issuer|jti; empty lines are skipped.
func ParseRevocations(r io.Reader) (*RevocationSet, error) {
	set := NewRevocationSet()
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		if err := set.addText(line); err != nil {
			return nil, fmt.Errorf("revocations: line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("revocations: %w", err)
	}
	return set, nil
}

// addText revokes the link named issuer|jti.
func (s *RevocationSet) addText(text string) error {
	issuer, tokenID, ok := strings.Cut(text, "|")
	if !ok || tokenID == "" {
		return fmt.Errorf("%.60q is not of the form issuer|jti", text)
	}
	urn, err := asap.ParseAgentURN(issuer)
	if err != nil {
		return err
	}
	s.Add(urn, tokenID)
	return nil
}
