package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/internal/httpapi"
	"github.com/asap-protocol/asap-go/internal/identity"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/notify"
)

// delegations judges, signs and revokes delegation tokens for both of the
// node's interfaces.
type delegations struct {
	verifier *delegation.Verifier
	revoked  *delegation.RevocationSet
	keys     *issuerKeys
	signers  signers
	roots    func(asap.AgentURN) bool
	ledger   *ledger.Ledger
	store    Store
	follower *notify.Follower
	ids      *asap.IDSource
	now      func() time.Time
	public   string       // URL before the proxy, or ""
	readAt   atomic.Int64 // when revocations were read last, in Unix seconds
	// awaitStarts waits for tasks between admission and handler.
	awaitStarts func()
}

// openDelegations reads what was revoked. The store and the ledger are open.
func (n *Node) openDelegations(ctx context.Context, private signers) (*delegations, error) {
	c := &n.config.Delegation
	d := &delegations{
		revoked: delegation.NewRevocationSet(), signers: private, ledger: n.ledger, store: n.store, follower: n.follower, ids: asap.NewIDSource(), now: n.now,
	}
	d.keys = &issuerKeys{ring: n.callers.keys, revoked: d.revoked, now: n.now}
	if err := d.readRevocations(ctx); err != nil {
		return nil, err
	}
	if d.roots = delegation.Roots(c.Roots...); len(c.Roots) == 0 {
		d.roots = func(agent asap.AgentURN) bool { return len(d.keys.Keys(agent, "")) > 0 }
	}
	names := []string{n.config.URN, n.URL()}
	if c.PublicURL != "" {
		d.public = strings.TrimRight(c.PublicURL, "/")
		names = append(names, d.public)
	}
	for _, a := range n.hosted {
		names = append(names, string(a.URN()))
	}
	nonces := &nonceMemory{now: n.now}
	d.verifier = delegation.NewVerifier(delegation.Policy{
		Keys: d.keys, IsRoot: d.roots, Revoked: d.isRevoked, Resources: names, RequireResources: c.RequireServers,
		RequireProof: c.RequireProof, Remember: nonces.remember,
	})
	return d, nil
}

const (
	// revocationsKept is how long after a token's end its revocation stays in
	// memory. In the store it stays.
	revocationsKept = 24 * time.Hour
	// revocationsReadEvery is how often the set in memory is gone through.
	revocationsReadEvery = time.Hour
)

// readRevocations makes the set in memory that of the store, without those of
// tokens that have ended for good: their time refuses them, and everything below
// them.
func (d *delegations) readRevocations(ctx context.Context) error {
	now := d.now()
	for r, err := range d.store.Revocations(ctx) {
		switch {
		case err != nil:
			return err
		case !r.ExpiresAt.IsZero() && now.Sub(r.ExpiresAt) > revocationsKept:
			d.revoked.Forget(r.Issuer, r.TokenID)
		default:
			d.revoked.Add(r.Issuer, r.TokenID)
		}
	}
	d.readAt.Store(now.Unix())
	return nil
}

// forgetRevocations does the same again when it is time; housekeeping calls it.
func (d *delegations) forgetRevocations(ctx context.Context) error {
	if since := d.now().Sub(time.Unix(d.readAt.Load(), 0)); since >= 0 && since < revocationsReadEvery {
		return nil
	}
	return d.readRevocations(ctx)
}

// Authorize implements agent.Delegations.
func (d *delegations) Authorize(ctx context.Context, token string, q delegation.Query) (*delegation.Grant, error) {
	if q.Proof != nil && d.public != "" { // what the caller has signed is the URL it knows
		if at := strings.Index(q.Proof.TargetURI, "://"); at >= 0 {
			seen := *q.Proof
			_, path, _ := strings.Cut(seen.TargetURI[at+3:], "/")
			seen.TargetURI = d.public + "/" + path
			q.Proof = &seen
		}
	}
	if d.follower.Age() > notify.StaleAfter { // for keys that were revoked; what is still not known then, isRevoked says
		ctx, cancel := context.WithTimeout(ctx, freshWithin)
		defer cancel()
		_ = d.follower.Fresh(ctx)
	}
	return d.verifier.Verify(token, q)
}

// Budget implements agent.Delegations.
func (d *delegations) Budget(ctx context.Context, chain *delegation.Chain) (agent.Budget, error) {
	budgets := make([]ledger.Budget, len(chain.Links()))
	for i, link := range ledgerLinks(chain) {
		b, found, err := d.store.Budget(ctx, link.Key())
		if err != nil {
			return agent.Budget{}, fmt.Errorf("read the budget of %s: %w", link.TokenID, err)
		}
		if !found {
			b = ledger.Budget{Link: link}
		}
		budgets[i] = b
	}
	return tightest(budgets), nil
}

// tightest is what all links of a chain together leave.
func tightest(budgets []ledger.Budget) agent.Budget {
	var out agent.Budget
	lower := func(to **int64, value int64, limited bool) {
		if limited && (*to == nil || value < **to) {
			*to = &value
		}
	}
	for _, b := range budgets {
		tasks, limited := b.RemainingTasks()
		lower(&out.RemainingTasks, tasks, limited)
		left, limited := b.RemainingNanoUSD()
		lower(&out.RemainingNanoUSD, int64(left), limited)
	}
	if len(budgets) > 0 {
		out.ReservedNanoUSD = int64(budgets[len(budgets)-1].HeldNanoUSD)
	}
	return out
}

// ledgerLinks are the counters of a chain, root first.
func ledgerLinks(chain *delegation.Chain) []ledger.Link {
	links := make([]ledger.Link, len(chain.Links()))
	for i := range links {
		l := &chain.Links()[i]
		links[i] = ledger.Link{Issuer: l.Issuer, TokenID: l.TokenID, LimitTasks: l.LimitTasks}
		if l.LimitNanoUSD != nil {
			links[i].LimitNanoUSD = new(metering.NanoUSD(*l.LimitNanoUSD))
		}
	}
	return links
}

// ledgerTokens describes the links of a chain, root first.
func ledgerTokens(chain *delegation.Chain) []ledger.Token {
	links := ledgerLinks(chain)
	tokens := make([]ledger.Token, len(links))
	above := make([]ledger.BudgetKey, len(links))
	for i := range tokens {
		l := &chain.Links()[i]
		above[i] = links[i].Key()
		tokens[i] = ledger.Token{
			Issuer: l.Issuer, Delegate: l.Delegate, TokenID: l.TokenID, Above: above[:i:i], Scopes: l.Scopes, Resources: l.Resources,
			LimitTasks: l.LimitTasks, LimitNanoUSD: links[i].LimitNanoUSD, MaxDepth: l.MaxDepth, BoundKey: l.ConfirmJKT,
			IssuedAt: l.IssuedAt(), ExpiresAt: l.ExpiresAt(),
		}
	}
	return tokens
}

// Delegate implements agent.Delegations.
func (d *delegations) Delegate(ctx context.Context, parent string, terms delegation.Terms) (string, error) {
	return d.Create(ctx, parent, terms, true)
}

// Create implements httpapi.Delegations: it signs a token with the issuer's key
// and records it before it returns it.
func (d *delegations) Create(ctx context.Context, parent string, terms delegation.Terms, clamp bool) (string, error) {
	key, ok := d.signers[terms.Issuer]
	if !ok {
		return "", asap.CodeDelegationNoKey.Err("")
	}
	now := d.now()
	terms.TokenID = delegation.NewTokenID(d.ids, now)
	if terms.IssuedAt.IsZero() {
		terms.IssuedAt = now
	}
	var token string
	var err error
	if parent == "" {
		if !d.roots(terms.Issuer) {
			return "", delegation.Refuse(asap.CodeDelegationRootUntrusted, 0, string(terms.Issuer)+" may only pass on what it was given: name the parent")
		}
		token, err = delegation.Issue(terms, key)
	} else {
		token, err = d.attenuate(parent, terms, key, clamp)
	}
	if err != nil {
		if delegation.AsRefusal(err) != nil {
			return "", err
		}
		return "", asap.CodeValidation.Err(err.Error())
	}
	chain, err := delegation.Parse(token)
	if err != nil {
		return "", fmt.Errorf("read the new delegation: %w", err)
	}
	tokens := ledgerTokens(chain)
	tokens[len(tokens)-1].Signed = true
	if _, err := d.ledger.Issue(ctx, tokens); err != nil {
		if errors.Is(err, ledger.ErrConflict) {
			return "", asap.CodeDelegationIDReused.Err("")
		}
		return "", err
	}
	return token, nil
}

// attenuate verifies the parent, which its holder passes on, and signs the link
// below it.
func (d *delegations) attenuate(parent string, terms delegation.Terms, key ed25519.PrivateKey, clamp bool) (string, error) {
	chain, err := delegation.Parse(parent)
	if err != nil {
		return "", err
	}
	policy := d.verifier.Policy()
	policy.RequireProof, policy.Remember, policy.Resources, policy.RequireResources = false, nil, nil, false
	// Whether the parent allows an action is the child's business: any scope of
	// the leaf will do.
	query := delegation.Query{Caller: terms.Issuer, Action: chain.Leaf().Scopes[0], Now: d.now()}
	if _, err := delegation.Verify(parent, &policy, query); err != nil && !proofOnly(err) {
		return "", err
	}
	if end := chain.ExpiresAt(); clamp && terms.ExpiresAt.After(end) {
		terms.ExpiresAt = end
	}
	if clamp {
		if terms, err = delegation.Clamp(chain, terms); err != nil {
			return "", err
		}
	}
	return delegation.Attenuate(parent, terms, key)
}

// proofOnly tells whether all that is missing is proof of possession, which a
// token bound to the key that signs the child has in the child's signature.
func proofOnly(err error) bool {
	r := delegation.AsRefusal(err)
	return r != nil && (r.Code == asap.CodeDelegationProofRequired || r.Step > delegation.StepProof && r.Code != asap.CodeDelegationStateUnavailable)
}

// Judge implements httpapi.Delegations.
func (d *delegations) Judge(ctx context.Context, token string, q httpapi.DelegationQuestion) error {
	policy := d.verifier.Policy()
	policy.RequireProof, policy.Remember = false, nil
	if q.Roots != nil {
		listed := delegation.Roots(q.Roots...)
		policy.IsRoot = func(a asap.AgentURN) bool { return d.roots(a) && listed(a) }
	}
	if q.Revoked != nil {
		policy.Revoked = func(issuer asap.AgentURN, id string) (bool, error) {
			if also, err := q.Revoked.Revoked(issuer, id); also || err != nil {
				return also, err
			}
			return d.isRevoked(issuer, id)
		}
	}
	grant, err := delegation.Verify(token, &policy, delegation.Query{Caller: q.Caller, Action: q.Action, Now: q.Now})
	if err != nil || q.Action != delegation.ScopeTaskExecute {
		return err
	}
	for i, link := range ledgerLinks(&grant.Chain) {
		b, _, err := d.store.Budget(ctx, link.Key())
		if err != nil {
			return &delegation.Refusal{Code: asap.CodeDelegationStateUnavailable, Step: delegation.StepState, Link: delegation.NoLink, Detail: "the counters cannot be read now", Err: err}
		}
		b.Link = link
		if short := b.ShortOfTasks(i); short != nil {
			return limitRefusal(short)
		}
	}
	return nil
}

// Related implements httpapi.Delegations: it tells whether a token, whose
// signatures verify, lets the agent revoke the link.
func (d *delegations) Related(token string, link ledger.BudgetKey, who asap.AgentURN) (bool, error) {
	chain, err := delegation.Parse(token)
	if err != nil {
		return false, err
	}
	policy := d.verifier.Policy()
	policy.RequireProof, policy.Remember, policy.Resources, policy.RequireResources = false, nil, nil, false
	policy.Revoked = func(asap.AgentURN, string) (bool, error) { return false, nil }
	_, err = delegation.Verify(token, &policy, delegation.Query{Caller: chain.Actor(), Action: chain.Leaf().Scopes[0], Now: d.now()})
	if r := delegation.AsRefusal(err); r != nil && r.Step < delegation.StepScope {
		return false, err
	}
	for i := range chain.Links() {
		l := &chain.Links()[i]
		if l.Issuer == link.Issuer && l.TokenID == link.TokenID {
			return chain.MayRevoke(who, i), nil
		}
	}
	return false, nil
}

// Revoke implements httpapi.Delegations: when it returns, no task starts any
// more under the token or anything below it.
func (d *delegations) Revoke(ctx context.Context, r ledger.Revocation) error {
	done, err := d.ledger.Revoke(ctx, r)
	if err != nil {
		return err
	}
	d.learn(&done)
	d.awaitStarts()
	return nil
}

// issuerKeys are the keys of a ring without those that their agents have
// withdrawn: a revocation of "key:" and the thumbprint. What it finds it keeps
// until forget, and at most for keysKept, as keys may begin and end by the clock.
type issuerKeys struct {
	ring    *identity.KeyRing
	revoked *delegation.RevocationSet
	now     func() time.Time

	generation atomic.Uint64 // how often forget was called; changed under mu
	mu         sync.RWMutex
	found      map[asap.AgentURN]issuerFind // guarded by mu
}

// issuerFind is what is known of an issuer until a time.
type issuerFind struct {
	keys  []delegation.Key // not changed
	epoch uint64
	until time.Time
}

const (
	keysKept   = time.Second
	maxIssuers = 16 << 10 // kept at once
)

// find returns the keys of an issuer that are good now.
func (k *issuerKeys) find(issuer asap.AgentURN) issuerFind {
	now := k.now()
	k.mu.RLock()
	have, ok := k.found[issuer]
	generation := k.generation.Load()
	k.mu.RUnlock()
	if ok && now.Before(have.until) {
		return have
	}
	have = issuerFind{epoch: k.ring.Epoch(issuer), until: now.Truncate(keysKept).Add(keysKept)}
	have.keys = slices.DeleteFunc(k.ring.Keys(issuer, ""), func(key delegation.Key) bool {
		gone, err := k.revoked.Revoked(issuer, httpapi.KeyRevocationPrefix+delegation.Thumbprint(key.Public))
		if gone || err != nil {
			have.epoch++
		}
		return gone || err != nil
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.generation.Load() == generation { // else this may be old already
		if k.found == nil || len(k.found) >= maxIssuers {
			k.found = map[asap.AgentURN]issuerFind{}
		}
		k.found[issuer] = have
	}
	return have
}

// forget makes every key be looked for anew: some may have changed.
func (k *issuerKeys) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.generation.Add(1)
	k.found = nil
}

// Keys implements delegation.KeySource. A link that names a key is good with
// that key, and with one that has no name.
func (k *issuerKeys) Keys(issuer asap.AgentURN, keyID string) []delegation.Key {
	keys := k.find(issuer).keys
	if keyID == "" {
		return keys
	}
	var named []delegation.Key
	for _, key := range keys {
		if key.ID == "" || key.ID == keyID {
			named = append(named, key)
		}
	}
	return named
}

// Generation implements delegation.GenerationSource: it changes with every forget
// and, as finds do, with the clock.
func (k *issuerKeys) Generation() uint64 {
	return (k.generation.Load()+1)<<40 | uint64(k.now().Unix())&(1<<40-1) //nolint:gosec // seconds since 1970, of any sign
}

// Epoch implements delegation.KeySource.
func (k *issuerKeys) Epoch(issuer asap.AgentURN) uint64 { return k.find(issuer).epoch }

// signers are the keys of the agents for whom the node signs. They are not
// changed once read.
type signers map[asap.AgentURN]ed25519.PrivateKey

// signingKeySuffix ends the name of a private key in the directory.
const signingKeySuffix = ".key"

// readSigners reads the private keys the configuration names.
func (c *Config) readSigners(log *slog.Logger) (signers, error) {
	out := signers{}
	add := func(agent asap.AgentURN, file string) error {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			log.Warn("others can read a private key", "file", file, "mode", fmt.Sprintf("%#o", mode))
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		key, err := asap.ReadPrivateKeyPEM(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if _, twice := out[agent]; twice {
			return fmt.Errorf("%s: there is another key of %s", file, agent)
		}
		out[agent] = key
		return nil
	}
	places, optional := words(c.Delegation.Keys), false
	if len(places) == 0 {
		places, optional = []string{filepath.Join(c.Data, "delegation-keys")}, true
	}
	for _, place := range places {
		if urn, file, ok := strings.Cut(place, "="); ok {
			agent, err := asap.ParseAgentURN(urn)
			if err == nil {
				err = add(agent, file)
			}
			if err != nil {
				return nil, fmt.Errorf("%w: delegation.keys: %w", ErrConfig, err)
			}
			continue
		}
		entries, err := os.ReadDir(place)
		if errors.Is(err, fs.ErrNotExist) && optional {
			break
		}
		for _, entry := range entries {
			name, isKey := strings.CutSuffix(entry.Name(), signingKeySuffix)
			if !isKey || entry.IsDir() || err != nil {
				continue
			}
			var agent asap.AgentURN
			if agent, err = asap.ParseAgentURN("urn:asap:agent:" + strings.ReplaceAll(name, ".", ":")); err == nil {
				err = add(agent, filepath.Join(place, entry.Name()))
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%w: delegation.keys: %w", ErrConfig, err)
		}
	}
	return out, nil
}

// AgentKeys implements identity.KeySource: an agent for whom the node signs is
// known by that key.
func (s signers) AgentKeys(agent asap.AgentURN) []identity.Key {
	key, ok := s[agent]
	if !ok {
		return nil
	}
	return []identity.Key{{Agent: agent, Public: asap.PublicKeyOf(key)}}
}

// nonceMemory remembers proofs of possession, a bounded number: when it is full
// of live ones, further proofs cannot be judged.
type nonceMemory struct {
	now func() time.Time

	mu    sync.Mutex
	until map[string]time.Time
	swept time.Time
}

const (
	maxNonces       = 64 << 10
	sweepNoncesEach = time.Minute
)

var errNoncesFull = errors.New("too many proofs of possession at once")

// remember has the form of delegation.Policy.Remember.
func (m *nonceMemory) remember(keyID, nonce string, until time.Time) (bool, error) {
	now, name := m.now(), keyID+" "+nonce
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.until == nil {
		m.until = map[string]time.Time{}
	}
	if end, known := m.until[name]; known && now.Before(end) {
		return false, nil
	}
	if len(m.until) >= maxNonces || now.Sub(m.swept) >= sweepNoncesEach {
		m.swept = now
		for name, end := range m.until {
			if !now.Before(end) {
				delete(m.until, name)
			}
		}
	}
	if len(m.until) >= maxNonces {
		return false, errNoncesFull
	}
	m.until[name] = until
	return true, nil
}
