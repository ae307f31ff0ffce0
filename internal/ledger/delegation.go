package ledger

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// maxReason bounds the reason of a revocation, in bytes.
const maxReason = 1024

// Token is what is kept of a delegation token, one link of a chain, besides its
// counter: for lists, and to know who may revoke what. Its key is (Issuer,
// TokenID).
type Token struct {
	Issuer, Delegate asap.AgentURN
	TokenID          string
	// Above are the links above it, root first; empty for a root.
	Above               []BudgetKey
	Scopes, Resources   []string
	LimitTasks          *int64
	LimitNanoUSD        *metering.NanoUSD
	MaxDepth            *int64
	BoundKey            string    // thumbprint, or ""
	IssuedAt, ExpiresAt time.Time // whole seconds
	Signed              bool      // by this node
	Sequence            int64     // order of first sight; the store's to fill in
	SeenAt              time.Time // first; the store's to fill in
}

// Key returns the token's key.
func (t *Token) Key() BudgetKey { return BudgetKey{t.Issuer, t.TokenID} }

// TokenFilter selects kept tokens; what is zero selects all.
type TokenFilter struct {
	TokenID          string
	Issuer, Delegate asap.AgentURN
	Party            asap.AgentURN // issuer or delegate
	Unrevoked        bool          // neither the token nor a link above it is revoked
}

// Revocation ends a token and everything below it. Its key is (Issuer,
// TokenID); the first one counts and is never taken back.
type Revocation struct {
	Issuer  asap.AgentURN
	TokenID string
	// Actor revokes; empty for the operator of the node.
	Actor  asap.AgentURN
	Reason string
	// Concerned are the agents besides that may read of it in the log.
	Concerned []asap.AgentURN

	At time.Time // the ledger's to fill in
	// ExpiresAt is when the token itself ends; zero where it is not kept. A store
	// fills it in where it lists revocations.
	ExpiresAt time.Time
	Receipt   Receipt // of the delegation.revoked entry; the ledger's to fill in
}

// Key returns the key of the token that is revoked.
func (r *Revocation) Key() BudgetKey { return BudgetKey{r.Issuer, r.TokenID} }

// RevokedError is the refusal of an admission whose delegation is revoked. It
// changed nothing.
type RevokedError struct {
	Link    int // position in the chain, the root is 0
	Issuer  asap.AgentURN
	TokenID string
}

func (e *RevokedError) Error() string {
	return fmt.Sprintf("link %d (%s) was revoked", e.Link, e.TokenID)
}

// CostUnboundedError is ErrCostUnbounded with the link that limits cost.
type CostUnboundedError struct {
	Link    int
	TokenID string
}

func (e *CostUnboundedError) Error() string {
	return fmt.Sprintf("%v: link %d (%s)", ErrCostUnbounded, e.Link, e.TokenID)
}

// Unwrap returns ErrCostUnbounded.
func (e *CostUnboundedError) Unwrap() error { return ErrCostUnbounded }

// TokenReusedError reports a token whose id came before with other limits: the
// issuer has signed two. It changed nothing, and is an ErrConflict.
type TokenReusedError struct {
	Link    int
	TokenID string
}

func (e *TokenReusedError) Error() string {
	return fmt.Sprintf("%v: link %d (%s) came with other limits before", ErrConflict, e.Link, e.TokenID)
}

// Unwrap returns ErrConflict.
func (e *TokenReusedError) Unwrap() error { return ErrConflict }

// reserve takes one task and the ceiling from every link, or says why not: a
// revoked link first, then what a limit can never give again, then a cost
// without bound, then what open holds may yet free.
func (b *book) reserve(links []Link, ceiling *metering.NanoUSD) ([]Budget, error) {
	for i, link := range links {
		if b.revocations[link.Key()] != nil {
			return nil, &RevokedError{Link: i, Issuer: link.Issuer, TokenID: link.TokenID}
		}
	}
	budgets := make([]Budget, 0, len(links))
	var refusal error
	for i, link := range links {
		have := b.budget(link)
		if have.exists && !have.value.sameLimits(link) {
			return nil, &TokenReusedError{Link: i, TokenID: link.TokenID}
		}
		next, err := have.value.reserve(i, ceiling)
		refusal = weightier(refusal, err)
		budgets = append(budgets, next)
	}
	return budgets, refusal
}

// weightier chooses which of two refusals decides; the first of two alike.
func weightier(a, b error) error {
	rank := func(err error) int {
		switch e := err.(type) { //nolint:errorlint // made here, never wrapped
		case nil:
			return 3
		case *LimitError:
			if e.MayFree() {
				return 2
			}
			return 0
		case *CostUnboundedError:
			return 1
		}
		return 0
	}
	if rank(b) < rank(a) {
		return b
	}
	return a
}

// Warning says that a limit is used up to a percentage, once for each of
// [WarnAt].
type Warning struct {
	// Seq is that of the entry of the task that used it up, and At its time: the
	// position of the warning on the live feed.
	Seq int64
	At  time.Time
	BudgetKey
	// Delegate holds the token; empty where that is not kept. It is the store's to
	// fill in.
	Delegate asap.AgentURN
	Unit     Unit
	Percent  int
	// Limit and Used are tasks or nano-USD as Unit says.
	Limit, Used int64
}

// WarnAt lists the percentages of a limit at which a [Warning] goes out.
func WarnAt() [3]int { return [...]int{80, 90, 100} }

// warn notes which percentages a change of a budget has crossed. What is used
// never goes down, so each is crossed once.
func (b *book) warn(e *audit.Entry, before, after *Budget) {
	note := func(unit Unit, limit, was, is int64) {
		for _, percent := range WarnAt() {
			p := int64(percent)
			at := limit/100*p + (limit%100*p+99)/100
			if was < at && is >= at {
				b.changes.Warnings = append(b.changes.Warnings, Warning{Seq: e.Seq, At: e.Timestamp, BudgetKey: after.Key(), Unit: unit, Percent: percent, Limit: limit, Used: is})
			}
		}
	}
	if limit := after.LimitTasks; limit != nil {
		note(UnitTasks, *limit, before.UsedTasks, after.UsedTasks)
	}
	if limit := after.LimitNanoUSD; limit != nil {
		note(UnitCost, int64(*limit), int64(saturate(before.UsedNanoUSD, before.OverrunNanoUSD)), int64(saturate(after.UsedNanoUSD, after.OverrunNanoUSD)))
	}
}

// Issue records a token that this node signs, in a delegation.created entry,
// before anybody gets to see it. chain describes its links, root first, and ends
// with the token itself. An id that the issuer has used is ErrConflict.
func (l *Ledger) Issue(ctx context.Context, chain []Token) (Receipt, error) {
	op := &issue{chain: chain}
	if len(chain) == 0 || len(chain) > MaxLinks {
		return Receipt{}, fmt.Errorf("%w: a chain of %d links", ErrInvalid, len(chain))
	}
	t := &chain[len(chain)-1]
	if t.Issuer == "" || t.TokenID == "" || t.Delegate == "" {
		return Receipt{}, fmt.Errorf("%w: a token needs issuer, id and delegate", ErrInvalid)
	}
	var err error
	if op.details, err = t.details(); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := l.do(ctx, op); err != nil {
		return Receipt{}, err
	}
	return op.out, nil
}

// details are those of the delegation.created entry.
func (t *Token) details() ([]byte, error) {
	type parent struct {
		ID     string        `json:"id"`
		Issuer asap.AgentURN `json:"issuer"`
	}
	d := struct {
		Delegate   asap.AgentURN `json:"delegate"`
		ExpiresAt  string        `json:"expires_at"`
		Issuer     asap.AgentURN `json:"issuer"`
		MaxCostUSD string        `json:"max_cost_usd,omitempty"`
		MaxTasks   *int64        `json:"max_tasks,omitzero"`
		Parent     *parent       `json:"parent,omitzero"`
		Resources  []string      `json:"res,omitempty"`
		Scopes     []string      `json:"scopes"`
	}{Delegate: t.Delegate, ExpiresAt: t.ExpiresAt.UTC().Format(time.RFC3339), Issuer: t.Issuer, MaxTasks: t.LimitTasks, Resources: t.Resources, Scopes: t.Scopes}
	if t.LimitNanoUSD != nil {
		d.MaxCostUSD = t.LimitNanoUSD.String()
	}
	if n := len(t.Above); n > 0 {
		d.Parent = &parent{t.Above[n-1].TokenID, t.Above[n-1].Issuer}
	}
	return json.Marshal(d)
}

type issue struct {
	chain   []Token
	details []byte
	out     Receipt
}

func (o *issue) weight() int        { return 1 }
func (o *issue) more(*book, *Needs) {}
func (o *issue) needs(n *Needs)     { n.Tokens = append(n.Tokens, o.chain[len(o.chain)-1].Key()) }
func (o *issue) apply(b *book) error {
	t := &o.chain[len(o.chain)-1]
	if b.tokens[t.Key()] {
		return fmt.Errorf("%w: %s has used the id %s before", ErrConflict, t.Issuer, t.TokenID)
	}
	concerned := []asap.AgentURN{t.Issuer, t.Delegate, o.chain[0].Issuer}
	var p posting
	if err := b.chain(&p, audit.Event{Type: audit.DelegationCreated, Actor: string(t.Issuer), Subject: t.TokenID,
		Parties: partyList(concerned), Details: o.details}); err != nil {
		return err
	}
	b.take(&p)
	b.see(o.chain)
	o.out = p.receipt(0)
	return nil
}

// see keeps the tokens that were not kept before.
func (b *book) see(chain []Token) {
	for i := range chain {
		t := chain[i]
		if b.tokens[t.Key()] {
			continue
		}
		b.tokens[t.Key()] = true
		t.SeenAt = b.now
		b.changes.Tokens = append(b.changes.Tokens, t)
	}
}

// Revoke ends a token and everything below it, with a delegation.revoked entry:
// no task is admitted under it after this has returned. A token that is revoked
// already keeps its first revocation, which is returned.
func (l *Ledger) Revoke(ctx context.Context, r Revocation) (Revocation, error) {
	if r.Issuer == "" || r.TokenID == "" || len(r.Reason) > maxReason {
		return Revocation{}, fmt.Errorf("%w: a revocation needs issuer and token id, and a reason of at most %d bytes", ErrInvalid, maxReason)
	}
	if err := storable(string(r.Issuer), r.TokenID, string(r.Actor), r.Reason); err != nil {
		return Revocation{}, err
	}
	if r.Actor == "" {
		r.Actor = l.actor()
	}
	op := &revoke{in: r}
	var err error
	op.details, err = json.Marshal(struct {
		Issuer asap.AgentURN `json:"issuer"`
		Reason string        `json:"reason,omitempty"`
	}{r.Issuer, r.Reason})
	if err != nil {
		return Revocation{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := l.do(ctx, op); err != nil {
		return Revocation{}, err
	}
	return op.out, nil
}

type revoke struct {
	in      Revocation
	details []byte
	out     Revocation
}

func (o *revoke) weight() int        { return 1 }
func (o *revoke) more(*book, *Needs) {}
func (o *revoke) needs(n *Needs)     { n.Revocations = append(n.Revocations, o.in.Key()) }
func (o *revoke) apply(b *book) error {
	if first := b.revocations[o.in.Key()]; first != nil {
		o.out = *first
		return nil
	}
	r := o.in
	var p posting
	if err := b.chain(&p, audit.Event{Type: audit.DelegationRevoked, Actor: string(r.Actor), Subject: r.TokenID,
		Parties: partyList(append([]asap.AgentURN{r.Issuer, r.Actor}, r.Concerned...)), Details: o.details}); err != nil {
		return err
	}
	b.take(&p)
	r.At, r.Receipt = p.entries[0].Timestamp, p.receipt(0)
	b.revocations[r.Key()] = &r
	b.changes.Revocations = append(b.changes.Revocations, r)
	o.out = r
	return nil
}

// partyList lists agents sorted and once each.
func partyList(agents []asap.AgentURN) []string {
	list := make([]string, 0, len(agents))
	for _, a := range agents {
		if a != "" {
			list = append(list, string(a))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
