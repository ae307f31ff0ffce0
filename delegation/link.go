package delegation

import (
	"crypto/sha256"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Limits of input. A token beyond them is refused before anything is decoded.
const (
	// MaxLinks is the most links a chain may have.
	MaxLinks = 8
	// MaxLinkBytes is the most bytes of one link.
	MaxLinkBytes = 4096
	// MaxTokenBytes is the most bytes of a whole token, the header's value.
	MaxTokenBytes = 16384
	// MaxScopes is the most scopes, and the most resources, of a link.
	MaxScopes = 32
	// MaxTokenIDBytes is the most bytes of a jti, and of a kid.
	MaxTokenIDBytes = 128
	// MaxResourceBytes is the most bytes of a scope or of a resource.
	MaxResourceBytes = 256
	// MaxLifetime is the longest time between iat and exp.
	MaxLifetime = 366 * 24 * time.Hour
	// ClockSkew is how far in the future iat may lie. Expiry has no leeway.
	ClockSkew = 30 * time.Second
)

// Header is the name of the HTTP header that carries a token. A request holds
// it at most once.
const Header = "X-ASAP-Delegation-Token"

// The scopes of the protocol. An agent may use others of its own; scopes are
// compared byte for byte, there are no prefixes or patterns.
const (
	ScopeAll         = "*"
	ScopeTaskExecute = "task.execute"
	ScopeTaskCancel  = "task.cancel"
	ScopeDataRead    = "data.read"
	ScopeDataWrite   = "data.write"
)

// Separator joins the links of a chain, root first. It cannot occur in a JWT,
// so a verifier that knows no chains refuses one.
const Separator = "~"

// Link is one signed hop of a chain. Links are shared between goroutines and
// must not be changed.
type Link struct {
	// Issuer (iss) delegates to Delegate (aud).
	Issuer, Delegate asap.AgentURN
	// TokenID (jti) names the link; with Issuer it is the key of revocations
	// and of counters.
	TokenID string
	// KeyID (kid) names the issuer's key, if the issuer has several.
	KeyID string
	// IssuedAtUnix (iat) and ExpiresAtUnix (exp) are seconds; NotBeforeUnix
	// (nbf) is 0 if absent.
	IssuedAtUnix, ExpiresAtUnix, NotBeforeUnix int64
	// Scopes (scp) holds at least one scope.
	Scopes []string
	// LimitTasks (max_tasks) and LimitNanoUSD (max_cost_usd, rounded down to
	// nano-dollars) are nil where the link adds no limit of its own.
	LimitTasks, LimitNanoUSD *int64
	// MaxDepth (del_max_depth) is the highest index a link below may have, or
	// nil.
	MaxDepth *int64
	// Resources (res) lists the servers the link is for; empty means any.
	Resources []string
	// ConfirmJKT (cnf.jkt) is the thumbprint of the delegate's key, or "".
	ConfirmJKT string

	alg      string // as it stands in the header
	hash     [sha256.Size]byte
	parent   [sha256.Size]byte
	depth    int64
	limits   [3]int64 // backing of the three pointers
	mask     uint8    // known scopes, see scopeMask
	hasHash  bool     // par_hash is present
	hasDepth bool     // del_depth is present
	isChild  bool     // crit marks a link of a chain
}

// IssuedAt is the time of issue.
func (l *Link) IssuedAt() time.Time { return time.Unix(l.IssuedAtUnix, 0).UTC() }

// ExpiresAt is the first instant at which the link no longer holds.
func (l *Link) ExpiresAt() time.Time { return time.Unix(l.ExpiresAtUnix, 0).UTC() }

// Hash is SHA-256 of the link's signed text, header.payload. A child carries it
// as par_hash.
func (l *Link) Hash() [sha256.Size]byte { return l.hash }

// Allows tells whether the link's scopes cover the action.
func (l *Link) Allows(action string) bool {
	if m := scopeMask(action); m != 0 {
		return l.mask&m != 0
	}
	return ScopesAllow(l.Scopes, action)
}

// ScopesAllow tells whether scopes hold the action or the wildcard.
func ScopesAllow(scopes []string, action string) bool {
	for _, s := range scopes {
		if s == action || s == ScopeAll {
			return true
		}
	}
	return false
}

const maskAll = 0x0f

// scopeMask is the bit of a known action, 0 for others.
func scopeMask(action string) uint8 {
	switch action {
	case ScopeTaskExecute:
		return 1
	case ScopeTaskCancel:
		return 2
	case ScopeDataRead:
		return 4
	case ScopeDataWrite:
		return 8
	}
	return 0
}

// Chain is the content of a token, root link first. What [Parse] returns is
// read but not verified: nothing in it may be believed. A [Grant] is.
type Chain struct {
	links []Link
}

// Links returns the links, root first. They must not be changed.
func (c *Chain) Links() []Link { return c.links }

// Root is the first link.
func (c *Chain) Root() *Link { return &c.links[0] }

// Leaf is the last link, whose delegate may use the token.
func (c *Chain) Leaf() *Link { return &c.links[len(c.links)-1] }

// Principal is the agent on whose account everything happens: the root's
// issuer.
func (c *Chain) Principal() asap.AgentURN { return c.links[0].Issuer }

// Actor is the agent that may act: the leaf's delegate.
func (c *Chain) Actor() asap.AgentURN { return c.Leaf().Delegate }

// ExpiresAt is the earliest expiry of all links.
func (c *Chain) ExpiresAt() time.Time {
	end := c.links[0].ExpiresAtUnix
	for i := range c.links {
		end = min(end, c.links[i].ExpiresAtUnix)
	}
	return time.Unix(end, 0).UTC()
}

// Allows tells whether every link's scopes cover the action.
func (c *Chain) Allows(action string) bool {
	for i := range c.links {
		if !c.links[i].Allows(action) {
			return false
		}
	}
	return true
}

// Limits returns the tightest limits on the way from the root, nil where no
// link sets one. Each link's own counter still has to be kept.
func (c *Chain) Limits() (tasks, nanoUSD *int64) {
	for i := range c.links {
		tasks = tighter(tasks, c.links[i].LimitTasks)
		nanoUSD = tighter(nanoUSD, c.links[i].LimitNanoUSD)
	}
	return tasks, nanoUSD
}

// MayRevoke tells whether who may revoke the link of that index: its issuer,
// any issuer above it, or its holder, who surrenders it. An operator may always.
func (c *Chain) MayRevoke(who asap.AgentURN, link int) bool {
	if link < 0 || link >= len(c.links) {
		return false
	}
	for i := 0; i <= link; i++ {
		if c.links[i].Issuer == who {
			return true
		}
	}
	return c.links[link].Delegate == who
}

func tighter(a, b *int64) *int64 {
	if a == nil || (b != nil && *b < *a) {
		return b
	}
	return a
}

// Grant is a verified chain: every check but the counting of limits has passed
// for one caller, action and instant. It may be shared between requests and
// must not be changed.
type Grant struct {
	Chain
}

// validScope tells whether s may stand in scp: the wildcard, or printable ASCII
// without space, quotation mark, backslash (RFC 6749) and asterisk.
func validScope(s string) bool {
	return s == ScopeAll || (visible(s, MaxResourceBytes) && strings.IndexByte(s, '*') < 0)
}

// visible tells whether s is 1 to limit bytes of printable ASCII other than
// space, quotation mark and backslash.
func visible(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
