package delegation

import (
	"crypto/ed25519"
	"slices"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Policy is what a server believes and demands, the same for every request. A
// field left out makes verification stricter, never looser, but for those that
// say otherwise. The functions are called by many goroutines at once.
type Policy struct {
	// Keys finds the issuers' keys. Without it every issuer is unknown.
	Keys KeySource
	// IsRoot tells whether the agent is a root authority here: one that may
	// delegate what it may do itself, on its own account. An agent that holds
	// only delegated authority never is. Without it nobody is.
	IsRoot func(asap.AgentURN) bool
	// Revoked tells whether a link was revoked. An error, such as a feed too
	// old to trust, ends in asap.CodeDelegationStateUnavailable, and so does nil.
	Revoked func(issuer asap.AgentURN, tokenID string) (bool, error)
	// Resources names this server as res may: its URN and its origins. A link
	// with res that holds none of them is refused. If empty, res is not
	// checked: for judging a token away from any server.
	Resources []string
	// RequireResources refuses a token in which no link has res.
	RequireResources bool
	// RequireProof demands proof of possession of every caller, not only where
	// a token is bound to a key.
	RequireProof bool
	// Remember stores a proof's nonce until that time and reports whether it is
	// new. It is shared by all replicas. An error, and nil, end in
	// asap.CodeDelegationStateUnavailable.
	Remember func(keyID, nonce string, until time.Time) (fresh bool, err error)
}

// Query is what one request asks.
type Query struct {
	// Caller is the authenticated sender.
	Caller asap.AgentURN
	// Action is the scope the request needs.
	Action string
	// Now is the time of judgement.
	Now time.Time
	// Proof describes the request as received, where proof of possession may be
	// needed. Nil means that none was given.
	Proof *Request
}

// Verify judges a token: every step but the counting of limits. It returns the
// verified chain, or a *Refusal that names the first failing step. It is a pure
// function but for the functions the policy brings along, and changes nothing.
func Verify(token string, p *Policy, q Query) (*Grant, error) {
	v, r := analyse(token, p, nil)
	if r == nil {
		r = v.judge(token, p, &q)
	}
	if r != nil {
		return nil, r
	}
	return &v.grant, nil
}

// verdict is everything about a token that depends on nothing but its text and
// the keys: what a cache may keep. It is immutable but for generation.
type verdict struct {
	grant  Grant
	epochs [MaxLinks]uint64 // of each link's issuer, read before its keys
	// generation of the keys in which the epochs were found unchanged; 0: none yet.
	generation atomic.Uint64

	// Refusals that stand already, each for its own step; the steps between
	// them depend on the request.
	early      *Refusal // signatures, linkage, depth ceiling
	escalation *Refusal
	unbound    *Refusal // a link not signed with the key its parent confirmed

	latestStart int64 // highest of iat less the skew, and nbf
	earliestEnd int64 // lowest exp
	mask        uint8 // known actions that every link covers
	bound       bool  // the leaf confirms a key
	restricted  bool  // some link has res
}

func (p *Policy) isRoot(agent asap.AgentURN) bool { return p.IsRoot != nil && p.IsRoot(agent) }

func untrustedRoot(c *Chain) *Refusal {
	return refusef(asap.CodeDelegationRootUntrusted, StepRoot, 0, "%s is no root authority here", c.Principal())
}

// analyse makes the steps up to the depth ceiling, and those later ones that
// need no request. A refusal it returns depends on nothing that lasts or costs;
// one in the verdict may be kept with it. prefix may be the verdict about the
// token's first links, fewer than all, if that is still good.
func analyse(token string, p *Policy, prefix *verdict) (*verdict, *Refusal) {
	var in parsed
	var known int
	var above *Chain
	if prefix != nil {
		above = &prefix.grant.Chain
	}
	if r := in.parse(token, above); r != nil {
		return nil, r
	}
	v := &verdict{grant: Grant{in.chain}, mask: maskAll}
	links := v.grant.links
	if above != nil {
		known = len(above.links)
		v.epochs, v.unbound = prefix.epochs, prefix.unbound
	}

	var keys [MaxLinks][]Key
	for i := known; i < len(links); i++ {
		if p.Keys != nil {
			v.epochs[i] = p.Keys.Epoch(links[i].Issuer)
			keys[i] = p.Keys.Keys(links[i].Issuer, links[i].KeyID)
		}
		if len(keys[i]) == 0 {
			return nil, refusef(asap.CodeDelegationUnknownIssuer, StepIssuerKeys, i, "no key is known for %s", links[i].Issuer)
		}
	}
	if !p.isRoot(links[0].Issuer) {
		return nil, untrustedRoot(&v.grant.Chain)
	}
	for i := known; i < len(links); i++ {
		key := signer(keys[i], in.signed[i], in.signatures[i][:])
		if key == nil {
			v.early = refusef(asap.CodeDelegationBadSignature, StepSignatures, i, "the signature does not verify with the key of %s", links[i].Issuer)
			return v, nil
		}
		if i > 0 && v.unbound == nil && links[i-1].ConfirmJKT != "" && links[i-1].ConfirmJKT != Thumbprint(key) {
			v.unbound = refusef(asap.CodeDelegationProofInvalid, StepProof, i, "the link is not signed with the key its parent is bound to")
		}
	}
	if v.early = checkLinkage(links); v.early != nil {
		return v, nil
	}
	if v.early = checkCeiling(links); v.early != nil {
		return v, nil
	}
	v.escalation = checkNarrowing(links)
	v.summarise()
	return v, nil
}

// signer returns the key that verifies the signature, or nil. A key of small
// order, which a source should not hold, verifies nothing.
func signer(keys []Key, signed, signature []byte) ed25519.PublicKey {
	for _, k := range keys {
		if len(k.Public) == ed25519.PublicKeySize && ed25519.Verify(k.Public, signed, signature) && asap.CheckPublicKey(k.Public) == nil {
			return k.Public
		}
	}
	return nil
}

func (v *verdict) summarise() {
	links := v.grant.links
	v.latestStart, v.earliestEnd = v.grant.latestStart(), v.grant.ExpiresAt().Unix()
	for i := range links {
		l := &links[i]
		v.mask &= l.mask
		v.restricted = v.restricted || len(l.Resources) > 0
	}
	v.bound = v.grant.Leaf().ConfirmJKT != ""
}

// checkLinkage: each link follows from the one before it, and the first from
// none.
func checkLinkage(links []Link) *Refusal {
	for i := range links {
		l := &links[i]
		broken := ""
		switch {
		case i == 0 && (l.isChild || l.hasHash || l.depth != 0):
			broken = "the first link is itself the child of another"
		case i == 0:
		case l.Issuer != links[i-1].Delegate:
			broken = "the issuer is not the delegate of the link before"
		case !l.hasHash || l.parent != links[i-1].hash:
			broken = "par_hash is not that of the link before"
		case !l.hasDepth || l.depth != int64(i):
			broken = "del_depth is not the position in the chain"
		case !l.isChild:
			broken = "crit does not mark the link as one of a chain"
		}
		if broken != "" {
			return refusef(asap.CodeDelegationChainBroken, StepLinkage, i, "%s", broken)
		}
	}
	return nil
}

// checkCeiling: no link is deeper than an ancestor allows, or allows more than
// one.
func checkCeiling(links []Link) *Refusal {
	var ceiling *int64
	for i := range links {
		if ceiling != nil && int64(i) > *ceiling {
			return refusef(asap.CodeDelegationDepth, StepDepthCeiling, i, "an ancestor allows no link deeper than %d", *ceiling)
		}
		if own := links[i].MaxDepth; own != nil {
			if ceiling != nil && *own > *ceiling {
				return refusef(asap.CodeDelegationEscalation, StepDepthCeiling, i, "del_max_depth %d is above the %d of an ancestor", *own, *ceiling)
			}
			ceiling = own
		}
	}
	return nil
}

// checkNarrowing: no link claims more than the one before it gave.
func checkNarrowing(links []Link) *Refusal {
	tasks, nanoUSD, resources := links[0].LimitTasks, links[0].LimitNanoUSD, links[0].Resources
	for i := 1; i < len(links); i++ {
		l, parent := &links[i], &links[i-1]
		wider := ""
		switch {
		case l.ExpiresAtUnix > parent.ExpiresAtUnix:
			wider = "exp is after the parent's"
		case l.IssuedAtUnix < parent.IssuedAtUnix:
			wider = "iat is before the parent's"
		case !scopesWithin(l, parent):
			wider = "scp holds a scope the parent lacks"
		case exceeds(l.LimitTasks, tasks):
			wider = "max_tasks is above an ancestor's"
		case exceeds(l.LimitNanoUSD, nanoUSD):
			wider = "max_cost_usd is above an ancestor's"
		case len(resources) > 0 && !subset(l.Resources, resources):
			wider = "res holds a server that an ancestor lacks"
		}
		if wider != "" {
			return refusef(asap.CodeDelegationEscalation, StepAttenuation, i, "%s", wider)
		}
		tasks, nanoUSD = tighter(tasks, l.LimitTasks), tighter(nanoUSD, l.LimitNanoUSD)
		if len(l.Resources) > 0 {
			resources = l.Resources
		}
	}
	return nil
}

func exceeds(own, ancestor *int64) bool { return own != nil && ancestor != nil && *own > *ancestor }

func subset(own, allowed []string) bool {
	for _, s := range own {
		if !slices.Contains(allowed, s) {
			return false
		}
	}
	return true
}

func scopesWithin(l, parent *Link) bool {
	return slices.Contains(parent.Scopes, ScopeAll) || subset(l.Scopes, parent.Scopes)
}

// judge makes the steps that depend on the request. It allocates nothing unless
// it refuses or checks a proof.
func (v *verdict) judge(token string, p *Policy, q *Query) *Refusal {
	links := v.grant.links
	if !p.isRoot(links[0].Issuer) {
		return untrustedRoot(&v.grant.Chain)
	}
	if v.early != nil {
		return v.early
	}
	if now := q.Now.Unix(); now < v.latestStart || now >= v.earliestEnd {
		return refuseTimes(links, now)
	}
	if v.escalation != nil {
		return v.escalation
	}
	var state error // unreadable state is the last step of all
	if p.Revoked == nil {
		state = errNoRevocations
	} else {
		for i := range links {
			revoked, err := p.Revoked(links[i].Issuer, links[i].TokenID)
			if revoked && err == nil {
				return refusef(asap.CodeDelegationRevoked, StepRevocation, i, "the link was revoked")
			}
			if err != nil && state == nil {
				state = err
			}
		}
	}
	if links[len(links)-1].Delegate != q.Caller {
		return refusef(asap.CodeDelegationAudience, StepAudience, len(links)-1, "the token is for %s", v.grant.Actor())
	}
	if r := v.judgeResources(p); r != nil {
		return r
	}
	if m := scopeMask(q.Action); m == 0 || v.mask&m == 0 {
		for i := range links {
			if !links[i].Allows(q.Action) {
				return refusef(asap.CodeDelegationScope, StepScope, i, "the scopes do not cover %q", q.Action)
			}
		}
	}
	if v.unbound != nil {
		return v.unbound
	}
	if v.bound || p.RequireProof {
		if r := v.judgeProof(token, p, q, &state); r != nil {
			return r
		}
	}
	if q.Action == ScopeTaskExecute {
		for i := range links {
			if l := links[i].LimitTasks; l != nil && *l == 0 {
				return &Refusal{Code: asap.CodeDelegationLimitTasks, Step: StepLimits, Link: i,
					Detail: "max_tasks is 0", Shortage: &Shortage{Needed: 1}}
			}
		}
	}
	if state != nil {
		return &Refusal{Code: asap.CodeDelegationStateUnavailable, Step: StepState, Link: NoLink,
			Detail: "revocations or nonces cannot be read now", Err: state}
	}
	return nil
}

// refuseTimes finds the link whose time is not now; there is one.
func refuseTimes(links []Link, now int64) *Refusal {
	for i := range links {
		l := &links[i]
		switch {
		case l.IssuedAtUnix > now+int64(ClockSkew/time.Second):
			return refusef(asap.CodeDelegationNotYetValid, StepTimes, i, "iat is %d seconds ahead", l.IssuedAtUnix-now)
		case l.NotBeforeUnix > now:
			return refusef(asap.CodeDelegationNotYetValid, StepTimes, i, "nbf is %d seconds ahead", l.NotBeforeUnix-now)
		case now >= l.ExpiresAtUnix:
			return refusef(asap.CodeDelegationExpired, StepTimes, i, "expired at %s", l.ExpiresAt().Format(time.RFC3339))
		}
	}
	panic("delegation: summary of times disagrees with the links")
}

func (v *verdict) judgeResources(p *Policy) *Refusal {
	if !v.restricted {
		if p.RequireResources {
			return refusef(asap.CodeDelegationAudience, StepAudience, NoLink, "the token names no server, and this one demands it")
		}
		return nil
	}
	if len(p.Resources) == 0 {
		return nil
	}
	for i := range v.grant.links {
		own := v.grant.links[i].Resources
		if len(own) > 0 && !slices.ContainsFunc(p.Resources, func(r string) bool { return slices.Contains(own, r) }) {
			return refusef(asap.CodeDelegationAudience, StepAudience, i, "the token is not for this server")
		}
	}
	return nil
}
