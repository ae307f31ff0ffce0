package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Delegations judges the delegation tokens of requests and signs narrower ones.
// It is safe for concurrent use.
type Delegations interface {
	// Authorize judges a token for one request: every step but the counting of
	// limits, which is the ledger's. It changes nothing but the memory of proofs
	// of possession. The error is a *[delegation.Refusal].
	Authorize(ctx context.Context, token string, q delegation.Query) (*delegation.Grant, error)
	// Budget tells how the limits of a chain stand now, of all its links the
	// tightest.
	Budget(ctx context.Context, chain *delegation.Chain) (Budget, error)
	// Delegate signs a token by the terms, below parent if that is not "", and
	// records it. It signs for agents whose key it was given, and is an error
	// for others. What exceeds the parent is lowered to it.
	Delegate(ctx context.Context, parent string, terms delegation.Terms) (token string, err error)
}

// Budget is what is left of the limits of a delegation.
type Budget struct {
	// RemainingTasks and RemainingNanoUSD are nil where nothing limits them.
	RemainingTasks, RemainingNanoUSD *int64
	// ReservedNanoUSD is what tasks that have not ended may still cost.
	ReservedNanoUSD int64
	// RequiredNanoUSD is what a refused task would have needed; 0 if it was not
	// refused for its cost.
	RequiredNanoUSD int64
}

// budgetHeader tells a caller how its delegation stands, as a structured field
// (RFC 9651): a dictionary of integers and decimals. Decimals have three places;
// what remains is rounded down, the others up.
const budgetHeader = "ASAP-Delegation-Budget"

func (b *Budget) header() string {
	var members []string
	add := func(name, value string) { members = append(members, name+"="+value) }
	if b.RemainingTasks != nil {
		add("remaining-tasks", strconv.FormatInt(*b.RemainingTasks, 10))
	}
	if b.RemainingNanoUSD != nil {
		add("remaining-usd", decimal(*b.RemainingNanoUSD))
	}
	const milli = delegation.NanoPerUSD / 1000
	if b.RemainingNanoUSD != nil || b.RequiredNanoUSD > 0 {
		add("reserved-usd", decimal(b.ReservedNanoUSD+milli-1))
	}
	if b.RequiredNanoUSD > 0 {
		add("required-usd", decimal(b.RequiredNanoUSD+milli-1))
	}
	return strings.Join(members, ", ")
}

// decimal writes nano-dollars with one to three places, cutting the rest.
func decimal(nanoUSD int64) string {
	text := fmt.Sprintf("%d.%03d", nanoUSD/delegation.NanoPerUSD, nanoUSD%delegation.NanoPerUSD/(delegation.NanoPerUSD/1000))
	for strings.HasSuffix(text, "0") && !strings.HasSuffix(text, ".0") {
		text = text[:len(text)-1]
	}
	return text
}

// Delegation is the verified delegation that a request is made under. Its
// methods are safe for concurrent use.
type Delegation struct {
	by     Delegations
	token  string
	grant  *delegation.Grant
	budget atomic.Pointer[Budget]
}

// Chain returns the links of the delegation, root first.
func (d *Delegation) Chain() *delegation.Chain { return &d.grant.Chain }

// Principal returns the agent on whose account the task runs.
func (d *Delegation) Principal() asap.AgentURN { return d.grant.Principal() }

// Token returns the token as it was sent.
func (d *Delegation) Token() string { return d.token }

// Budget tells how the limits of the delegation stand now. What the task itself
// has reserved is not among what remains.
func (d *Delegation) Budget(ctx context.Context) (Budget, error) {
	return d.by.Budget(ctx, d.Chain())
}

// Report is called by a [Ledger] that has counted on the delegation: the caller
// is told how it stands.
func (d *Delegation) Report(b Budget) {
	if d != nil {
		d.budget.Store(&b)
	}
}

// Delegation returns the delegation the task runs under, or nil.
func (t *Task) Delegation() *Delegation { return t.run.use }

// Share is what [Task.Delegate] passes on.
type Share struct {
	// To is the agent that may act.
	To asap.AgentURN
	// Scopes are what it may do; task.execute if empty.
	Scopes []string
	// MaxTasks and MaxNanoUSD limit it further; nil adds no limit.
	MaxTasks, MaxNanoUSD *int64
	// Lifetime is how long the token is good; until the task's deadline if 0.
	Lifetime time.Duration
	// Final forbids to pass it on.
	Final bool
	// Parent is the token to narrow, which this agent holds. If empty, it is that
	// of the task, and without one the share is on this agent's own account.
	Parent string
}

// Delegate makes a token with which a sub-agent may act within a part of what
// the task may use: the caller's delegation, or the one named, narrowed. What
// exceeds it is lowered. It needs the key of whoever holds that delegation - the
// caller, or this agent - in the hands of the node.
func (t *Task) Delegate(ctx context.Context, share Share) (token string, err error) {
	by := t.run.server.cfg.Delegations
	if by == nil {
		return "", errors.New("delegate: this server knows no delegations")
	}
	now := t.run.server.now()
	terms := delegation.Terms{Issuer: t.Agent(), Delegate: share.To, Scopes: share.Scopes, MaxTasks: share.MaxTasks, MaxNanoUSD: share.MaxNanoUSD, IssuedAt: now}
	if len(terms.Scopes) == 0 {
		terms.Scopes = []string{delegation.ScopeTaskExecute}
	}
	if terms.ExpiresAt = now.Add(share.Lifetime); share.Lifetime == 0 {
		terms.ExpiresAt = now.Add(max(time.Until(t.run.deadline), time.Second))
	}
	parent, depth := share.Parent, int64(0)
	if parent == "" && t.run.use != nil {
		parent = t.run.use.token
	}
	if parent != "" {
		chain, err := delegation.Parse(parent)
		if err != nil {
			return "", fmt.Errorf("delegate: %w", err)
		}
		terms.Issuer, depth = chain.Actor(), int64(len(chain.Links()))
		if holders := []asap.AgentURN{t.Agent(), t.run.consumer}; !slices.Contains(holders, terms.Issuer) {
			return "", fmt.Errorf("delegate: the token is held by %s, which is neither this agent nor its caller", terms.Issuer)
		}
	}
	if share.Final {
		terms.MaxDepth = &depth
	}
	return by.Delegate(ctx, parent, terms)
}

// Scopes names scopes of the agent's own that a delegation must have for a
// skill, besides task.execute.
func Scopes(scopes ...string) SkillOption {
	return func(s *skill, _ *asap.Skill) { s.scopes = append(s.scopes, scopes...) }
}

// actionOf is the scope that a request of that kind needs; "" if none.
func actionOf(kind asap.PayloadKind) string {
	switch kind {
	case asap.KindTaskRequest, asap.KindMessageSend:
		return delegation.ScopeTaskExecute
	case asap.KindTaskCancel:
		return delegation.ScopeTaskCancel
	case asap.KindStateQuery:
		return delegation.ScopeDataRead
	case asap.KindStateRestore:
		return delegation.ScopeDataWrite
	}
	return ""
}

// presented is the delegation token of a request, as it came.
type presented struct {
	token string
	given bool
	proof *delegation.Request
}

var errTwoDelegations = delegation.Refuse(asap.CodeDelegationMalformed, delegation.NoLink, "more than one delegation token was sent")

// headerDelegation finds the token in the header of r; more than one is an
// error.
func headerDelegation(r *http.Request) (presented, error) {
	switch values := r.Header.Values(delegationHeader); len(values) {
	case 0:
		return presented{}, nil
	case 1:
		return presented{token: values[0], given: true}, nil
	}
	return presented{given: true}, errTwoDelegations
}

// proofOf describes an HTTP request to whoever checks a proof of possession.
func proofOf(r *http.Request, body []byte) *delegation.Request {
	if len(r.Header.Values("Signature-Input")) == 0 {
		return nil
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	p := &delegation.Request{Method: r.Method, TargetURI: scheme + "://" + r.Host + r.URL.RequestURI(), Header: r.Header.Values, Body: body}
	if r.TLS != nil {
		p.Key = connectionKey(r.TLS)
	}
	return p
}

// connectionKey is the Ed25519 key of the client's certificate, if it has one.
func connectionKey(state *tls.ConnectionState) ed25519.PublicKey {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	key, _ := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	return key
}

// inParams finds a token in the parameters of the call: a text, or null for
// none. On a connection it takes the place of the one sent at its start.
func (c *call) inParams() error {
	if !bytes.Contains(c.rpc.Params, []byte(`"delegation"`)) {
		return nil
	}
	value, there := member(c.rpc.Params, "delegation")
	if !there {
		return nil
	}
	var token *string
	if err := json.Unmarshal(value, &token); err != nil {
		return delegation.Refuse(asap.CodeDelegationMalformed, delegation.NoLink, "params.delegation is not a text")
	}
	if c.watcher == nil && c.delegation.given {
		return errTwoDelegations
	}
	c.delegation.token, c.delegation.given = "", token != nil
	if token != nil {
		c.delegation.token = *token
	}
	return nil
}

// authorize judges the delegation that c brings, if it brings one, for a request
// of that kind. Nothing has run yet.
func (s *Server) authorize(ctx context.Context, c *call, kind asap.PayloadKind) error {
	err := c.delegationErr
	if err == nil {
		err = c.inParams()
	}
	action := actionOf(kind)
	if err != nil || !c.delegation.given || action == "" {
		return err
	}
	if s.cfg.Delegations == nil {
		if kind == asap.KindTaskRequest {
			return nil // the ledger decides
		}
		return delegation.Refuse(asap.CodeDelegationRootUntrusted, delegation.NoLink, "this server takes no delegations")
	}
	q := delegation.Query{Action: action, Now: s.now(), Proof: c.delegation.proof}
	if c.caller.Verified { // nobody else can be the one the token is for
		q.Caller = c.caller.URN
	}
	grant, err := s.cfg.Delegations.Authorize(ctx, c.delegation.token, q)
	if err != nil {
		return err
	}
	c.use = &Delegation{by: s.cfg.Delegations, token: c.delegation.token, grant: grant}
	return nil
}

// covers tells whether the delegation has the skill's own scopes.
func (d *Delegation) covers(s *skill) error {
	if d == nil {
		return nil
	}
	for _, scope := range s.scopes {
		for i, link := range d.grant.Links() {
			if !link.Allows(scope) {
				return &delegation.Refusal{Code: asap.CodeDelegationScope, Step: delegation.StepScope, Link: i,
					Detail: fmt.Sprintf("the skill %s needs the scope %q", s.name, scope)}
			}
		}
	}
	return nil
}

func (d *Delegation) principal() asap.AgentURN {
	if d == nil {
		return ""
	}
	return d.Principal()
}

// mayTouch tells whether the sender of c may send messages about a task of the
// consumer, under a delegation of the principal if that is not "": whoever asked
// for it; if it was under a delegation, with one of the same principal; and
// whoever acts for the one who asked for it. Nil: it may.
func (c *call) mayTouch(consumer asap.AgentURN, verified bool, principal asap.AgentURN) error {
	mine := consumer == c.envelope.Sender
	switch {
	case verified && !c.caller.Verified, principal != "" && !mine:
	case principal == "" && (mine || c.use != nil && verified && consumer == c.use.Principal()):
		return nil
	case principal == "":
	case c.use.principal() != principal:
		return delegation.Refuse(asap.CodeDelegationScope, delegation.NoLink, "the task runs under a delegation of "+string(principal)+", and this needs one of the same")
	default:
		return nil
	}
	return asap.CodeTaskNotFound.Err("")
}

// AwaitStarts returns when every task whose admission had begun has either been
// refused or reached its handler. Who revokes a delegation calls it afterwards:
// no task starts under it any more once it has returned.
func (s *Server) AwaitStarts() {
	s.starts.Lock()
	defer s.starts.Unlock() //nolint:staticcheck // waiting is the purpose
}

// delegationRefusal is the answer to a request whose delegation is refused.
func delegationRefusal(r *delegation.Refusal) (*asap.RPCError, *busy) {
	if r.Code.Info().HTTP == http.StatusServiceUnavailable {
		return nil, &busy{r.Code, r.Code.Info().Sentence, jsontext.Value("{}")}
	}
	return r.Protocol().RPC(), nil
}

// tellBudget tells how the delegation of c stands.
func (c *call) tellBudget(h http.Header) {
	if c.use == nil {
		return
	}
	if b := c.use.budget.Load(); b != nil {
		if text := b.header(); text != "" {
			h.Set(budgetHeader, text)
		}
	}
}
