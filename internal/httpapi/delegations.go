package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/internal/ledger"
)

// Delegations signs, judges and revokes delegation tokens. Its methods are safe
// for concurrent use.
type Delegations interface {
	// Create signs a token by the terms with its issuer's key, below parent if
	// that is not "", and returns it once it is recorded. With clamp, what exceeds
	// the parent is lowered to it. The error is an *asap.Error, a
	// *delegation.Refusal, or one of package ledger.
	Create(ctx context.Context, parent string, terms delegation.Terms, clamp bool) (token string, err error)
	// Judge judges a token for a use that does not happen. It changes nothing; the
	// error is a *delegation.Refusal.
	Judge(ctx context.Context, token string, q DelegationQuestion) error
	// Related tells whether a token, which must be good but for revocations, shows
	// that the agent may revoke the link.
	Related(token string, link ledger.BudgetKey, who asap.AgentURN) (bool, error)
	// Revoke ends a token and everything below it. When it returns, no task
	// starts under them any more.
	Revoke(ctx context.Context, r ledger.Revocation) error
}

// DelegationQuestion is the use that a token is judged for.
type DelegationQuestion struct {
	Caller asap.AgentURN
	Action string
	Now    time.Time
	// Roots, if not nil, are the only root authorities, of those the node has.
	Roots []string
	// Revoked, if not nil, is revoked besides what the node knows.
	Revoked *delegation.RevocationSet
}

// DelegationReader reads what the ledger keeps of delegations. Its methods are
// safe for concurrent use and see what is committed.
type DelegationReader interface {
	// ListTokens returns at most limit tokens, newest first, of those before a
	// sequence (0: from the newest on).
	ListTokens(ctx context.Context, f ledger.TokenFilter, before int64, limit int) ([]ledger.Token, error)
	// Budget returns the counter of a token, if it was ever used.
	Budget(ctx context.Context, key ledger.BudgetKey) (ledger.Budget, bool, error)
	// Revocation returns the revocation of a token, if there is one.
	Revocation(ctx context.Context, key ledger.BudgetKey) (ledger.Revocation, bool, error)
}

// KeyRevocationPrefix begins a token id that names not a token but a key of its
// issuer, by its thumbprint: revoking it withdraws the key.
const KeyRevocationPrefix = "key:"

// delegationHeader carries a token besides the one that is asked about.
const delegationHeader = "X-ASAP-Delegation-Token"

// delegationRoutes are those of delegations; under /asap they are what clients
// of v1.3.0 know.
func delegationRoutes() []route {
	var table []route
	for _, prefix := range []string{"", "/asap"} {
		suffix, legacy := "", prefix != ""
		if legacy {
			suffix = "V1"
		}
		add := func(method, path, id string, handle func(*API, *call) error, summary string) *route {
			table = append(table, route{method: method, path: prefix + "/delegations" + path, id: id + suffix, access: agents, handle: handle, summary: summary})
			return &table[len(table)-1]
		}
		list := (*API).listDelegations
		var page any = delegationPage{}
		if legacy {
			list, page = (*API).listDelegationsV1, []delegationView{}
		}
		create := add("POST", "", "createDelegation", (*API).createDelegation, "Delegate as the caller, or pass on a part of what it was given")
		create.access = itself // whoever delegates has signed in as the delegator
		*create = create.taking(delegationBody{}).answering(201, delegationCreated{})
		listed := add("GET", "", "listDelegations", list, "Tokens the node signed or saw used, newest first")
		*listed = listed.with(delegationFilter(), paging()).answering(200, page)
		verify := add("POST", "/verify", "verifyDelegation", (*API).verifyDelegation, "Judge a token for a use that does not happen")
		*verify = verify.taking(delegationQuestion{}).answering(200, delegationVerdict{})
		one := []parameter{tokenPathParam, issuerParam}
		get := add("GET", "/{id}", "getDelegation", (*API).getDelegation, "One token")
		*get = get.with(one).answering(200, delegationView{})
		chain := add("GET", "/{id}/chain", "getDelegationChain", (*API).delegationChain, "The token and every link above it, root first")
		*chain = chain.with(one).answering(200, delegationChain{})
		usage := add("GET", "/{id}/usage", "getDelegationUsage", (*API).delegationUsage, "What was used of a token's limits")
		*usage = usage.with(one).answering(200, delegationUsage{})
		revoke := add("DELETE", "/{id}", "revokeDelegation", (*API).revokeDelegation, "End a token and everything below it, at once and for good")
		*revoke = revoke.with(one, []parameter{reasonParam}).answering(204, nil)
	}
	return table
}

var (
	tokenPathParam = parameter{name: "id", in: "path", kind: "string", required: true, doc: "jti of the token"}
	issuerParam    = parameter{name: "issuer", in: "query", kind: "string", pattern: urnPattern, most: asap.MaxURNLength, doc: "who issued it; the caller, or the one issuer the node knows for the id, if left out"}
	reasonParam    = parameter{name: "reason", in: "query", kind: "string", doc: "why; it is kept in the audit log"}
)

func delegationFilter() []parameter {
	return []parameter{
		{name: "active", in: "query", kind: "boolean", doc: "only tokens of which no link is revoked; under /asap true unless said otherwise"},
		{name: "role", in: "query", kind: "string", enum: []any{"issued", "held"}, doc: "what the agent is to the token; either if left out, under /asap issued"},
		{name: "agent", in: "query", kind: "string", doc: "for the operator: whose tokens"},
	}
}

// delegationView is a token in the words of v1.3.0, and more.
type delegationView struct {
	ID         string   `json:"id"`
	Delegator  string   `json:"delegator"`
	Delegate   string   `json:"delegate"`
	CreatedAt  string   `json:"created_at" format:"date-time"`
	Active     bool     `json:"active" doc:"neither it nor a link above it is revoked"`
	Status     string   `json:"status" enum:"active,expired,revoked"`
	RevokedAt  *string  `json:"revoked_at" doc:"when the first revoked link of its chain was"`
	Reason     *string  `json:"revocation_reason,omitzero"`
	ExpiresAt  string   `json:"expires_at" format:"date-time"`
	Scopes     []string `json:"scopes"`
	MaxTasks   *int64   `json:"max_tasks"`
	MaxCostUSD *string  `json:"max_cost_usd" doc:"decimal text"`
	MaxDepth   *int64   `json:"max_depth"`
	Resources  []string `json:"res"`
	BoundKey   *string  `json:"bind_jkt"`
	Parent     *string  `json:"parent_id" doc:"id of the link above"`
	Depth      int      `json:"depth"`
	Signed     bool     `json:"signed_here" doc:"the node signed it; otherwise it was used here"`
}

type delegationPage struct {
	Data  []delegationView `json:"data"`
	Count int              `json:"count"`
	Next  *string          `json:"next_cursor"`
}

type delegationChain struct {
	ID    string           `json:"id"`
	Chain []delegationView `json:"chain" doc:"root first; links the node has not seen are left out"`
}

type limitView[T any] struct {
	Limit     *T `json:"limit"`
	Used      T  `json:"used"`
	Held      T  `json:"held"`
	Remaining *T `json:"remaining"`
}

type delegationUsage struct {
	ID    string            `json:"id"`
	Tasks limitView[int64]  `json:"tasks"`
	USD   limitView[string] `json:"usd"`
}

func (a *API) listDelegations(c *call) error {
	filter, err := c.tokenFilter(false, "")
	if err != nil {
		return err
	}
	views, next, err := a.tokenPage(c, filter)
	if err != nil {
		return err
	}
	page := delegationPage{Data: views, Count: len(views)}
	if next != "" {
		page.Next = &next
	}
	return writeJSON(c.w, http.StatusOK, page)
}

// listDelegationsV1 answers with the bare list of v1.3.0; the way to the next
// page is in the header Link.
func (a *API) listDelegationsV1(c *call) error {
	filter, err := c.tokenFilter(true, "issued")
	if err != nil {
		return err
	}
	views, next, err := a.tokenPage(c, filter)
	if err != nil {
		return err
	}
	if next != "" {
		query := c.r.URL.Query()
		query.Set("cursor", next)
		c.w.Header().Set("Link", "<"+c.r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
	}
	return writeJSON(c.w, http.StatusOK, views)
}

// tokenFilter reads the parameters that select tokens.
func (c *call) tokenFilter(active bool, role string) (f ledger.TokenFilter, err error) {
	if f.Unrevoked, err = c.params.boolean("active", active); err != nil {
		return f, err
	}
	given, err := c.params.text("role")
	if err != nil {
		return f, err
	}
	if given != "" {
		role = given
	}
	who := c.caller.Agent
	if c.caller.Role == Operator {
		text, err := c.params.text("agent")
		if err != nil {
			return f, err
		}
		who = asap.AgentURN(text)
	}
	switch {
	case role != "" && role != "issued" && role != "held":
		return f, refuse(asap.CodeInvalidFilter, "role", "must be issued or held")
	case role == "issued":
		f.Issuer = who
	case role == "held":
		f.Delegate = who
	default:
		f.Party = who
	}
	return f, nil
}

func (a *API) tokenPage(c *call, f ledger.TokenFilter) ([]delegationView, string, error) {
	limit, err := c.params.integer("limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return nil, "", err
	}
	var before int64
	if _, err := c.params.cursor("delegations", &before); err != nil {
		return nil, "", err
	}
	tokens, err := a.cfg.DelegationReader.ListTokens(c.ctx(), f, before, limit+1)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(tokens) > limit {
		tokens = tokens[:limit]
		if next, err = encodeCursor("delegations", tokens[limit-1].Sequence); err != nil {
			return nil, "", err
		}
	}
	views := make([]delegationView, len(tokens))
	for i := range tokens {
		if views[i], err = a.viewToken(c, &tokens[i]); err != nil {
			return nil, "", err
		}
	}
	return views, next, nil
}

func (a *API) viewToken(c *call, t *ledger.Token) (delegationView, error) {
	v := delegationView{
		ID: t.TokenID, Delegator: string(t.Issuer), Delegate: string(t.Delegate), CreatedAt: stamp(t.SeenAt), Active: true, Status: "active",
		ExpiresAt: stamp(t.ExpiresAt), Scopes: t.Scopes, MaxTasks: t.LimitTasks, MaxDepth: t.MaxDepth, Resources: t.Resources, Depth: len(t.Above), Signed: t.Signed,
	}
	if !t.ExpiresAt.After(a.cfg.Now()) {
		v.Status = "expired"
	}
	if t.LimitNanoUSD != nil {
		v.MaxCostUSD = new(t.LimitNanoUSD.String())
	}
	if t.BoundKey != "" {
		v.BoundKey = &t.BoundKey
	}
	if n := len(t.Above); n > 0 {
		v.Parent = &t.Above[n-1].TokenID
	}
	for _, key := range append(slices.Clone(t.Above), t.Key()) {
		r, revoked, err := a.cfg.DelegationReader.Revocation(c.ctx(), key)
		if err != nil {
			return v, err
		}
		if revoked && (v.Active || stamp(r.At) < *v.RevokedAt) {
			v.Active, v.Status, v.RevokedAt = false, "revoked", new(stamp(r.At))
			if v.Reason = nil; r.Reason != "" {
				v.Reason = &r.Reason
			}
		}
	}
	return v, nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// theToken finds the token a path names, for those who may see it: its issuer,
// those above it, its holder, and the operator.
func (a *API) theToken(c *call) (ledger.Token, error) {
	tokens, err := a.candidates(c)
	if err != nil {
		return ledger.Token{}, err
	}
	if len(tokens) == 0 {
		return ledger.Token{}, problemOf(asap.CodeNotFound, "Delegation token not found")
	}
	mine := slices.DeleteFunc(slices.Clone(tokens), func(t ledger.Token) bool { return !c.concerns(&t) })
	switch len(mine) {
	case 0:
		return ledger.Token{}, problemOf(asap.CodeForbidden, "Only the issuer or holder of this token can view it")
	case 1:
		return mine[0], nil
	}
	return ledger.Token{}, refuse(asap.CodeInvalidFilter, "issuer", "is needed: several agents have issued a token with this id")
}

// maxNamesakes is how many tokens of one id are looked at.
const maxNamesakes = 100

// candidates are the kept tokens that the path and the parameter issuer name.
func (a *API) candidates(c *call) ([]ledger.Token, error) {
	issuer, err := c.params.text("issuer")
	if err != nil {
		return nil, err
	}
	return a.cfg.DelegationReader.ListTokens(c.ctx(), ledger.TokenFilter{TokenID: c.r.PathValue("id"), Issuer: asap.AgentURN(issuer)}, 0, maxNamesakes)
}

// concerns tells whether the caller is part of the token.
func (c *call) concerns(t *ledger.Token) bool {
	return c.caller.Role == Operator || t.Delegate == c.caller.Agent || t.Issuer == c.caller.Agent ||
		slices.ContainsFunc(t.Above, func(k ledger.BudgetKey) bool { return k.Issuer == c.caller.Agent })
}

func (a *API) getDelegation(c *call) error {
	t, err := a.theToken(c)
	if err != nil {
		return err
	}
	v, err := a.viewToken(c, &t)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, v)
}

func (a *API) delegationChain(c *call) error {
	t, err := a.theToken(c)
	if err != nil {
		return err
	}
	out := delegationChain{ID: t.TokenID, Chain: []delegationView{}}
	links := []ledger.Token{}
	for _, key := range t.Above {
		above, err := a.cfg.DelegationReader.ListTokens(c.ctx(), ledger.TokenFilter{TokenID: key.TokenID, Issuer: key.Issuer}, 0, 1)
		if err != nil {
			return err
		}
		links = append(links, above...)
	}
	for _, link := range append(links, t) {
		v, err := a.viewToken(c, &link)
		if err != nil {
			return err
		}
		out.Chain = append(out.Chain, v)
	}
	return writeJSON(c.w, http.StatusOK, out)
}

func (a *API) delegationUsage(c *call) error {
	t, err := a.theToken(c)
	if err != nil {
		return err
	}
	b, used, err := a.cfg.DelegationReader.Budget(c.ctx(), t.Key())
	if err != nil {
		return err
	}
	if !used {
		b.LimitTasks, b.LimitNanoUSD = t.LimitTasks, t.LimitNanoUSD
	}
	out := delegationUsage{ID: t.TokenID}
	out.Tasks.Limit, out.Tasks.Used, out.Tasks.Held = b.LimitTasks, b.UsedTasks, b.HeldTasks
	if left, limited := b.RemainingTasks(); limited {
		out.Tasks.Remaining = &left
	}
	spent := b.UsedNanoUSD
	if total, err := spent.Add(b.OverrunNanoUSD); err == nil {
		spent = total
	}
	out.USD.Used, out.USD.Held = spent.String(), b.HeldNanoUSD.String()
	if b.LimitNanoUSD != nil {
		out.USD.Limit = new(b.LimitNanoUSD.String())
	}
	if left, limited := b.RemainingNanoUSD(); limited {
		out.USD.Remaining = new(left.String())
	}
	return writeJSON(c.w, http.StatusOK, out)
}

// revokeDelegation ends a token for its issuer, whoever issued a link above it,
// its holder, or the operator. An issuer may revoke an id the node has never
// seen; for an ancestor or the holder of such a one the token itself, in the
// header, shows that they are.
func (a *API) revokeDelegation(c *call) error {
	r, err := a.revocation(c)
	if err != nil {
		return err
	}
	if a.cfg.Delegations == nil {
		return ledger.ErrUnavailable
	}
	if err := a.cfg.Delegations.Revoke(c.ctx(), r); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) revocation(c *call) (ledger.Revocation, error) {
	r := ledger.Revocation{TokenID: c.r.PathValue("id"), Actor: c.caller.Agent}
	if len(r.TokenID) > delegation.MaxTokenIDBytes {
		return r, refuse(asap.CodeInvalidFilter, "id", "must have at most %d bytes", delegation.MaxTokenIDBytes)
	}
	issuer, err := c.params.text("issuer")
	if err != nil {
		return r, err
	}
	if r.Reason, err = c.params.text("reason"); err != nil {
		return r, err
	}
	if len(r.Reason) > maxReason {
		return r, refuse(asap.CodeInvalidFilter, "reason", "must have at most %d bytes", maxReason)
	}
	if issuer != "" {
		if _, err := asap.ParseAgentURN(issuer); err != nil {
			return r, refuse(asap.CodeInvalidFilter, "issuer", "is not an agent URN")
		}
	}
	kept, err := a.candidates(c)
	if err != nil {
		return r, err
	}
	if issuer == "" { // one's own first, then what one is part of
		own := slices.IndexFunc(kept, func(t ledger.Token) bool { return t.Issuer == c.caller.Agent })
		if own >= 0 {
			kept = kept[own : own+1]
		} else {
			mine := slices.DeleteFunc(slices.Clone(kept), func(t ledger.Token) bool { return !c.concerns(&t) })
			if len(mine) == 0 && len(kept) > 0 {
				return r, problemOf(asap.CodeForbidden, "Only those who issued this token, or hold it, can revoke it")
			}
			kept = mine
		}
	}
	switch {
	case len(kept) == 1:
		t := &kept[0]
		r.Issuer, r.Concerned = t.Issuer, append(r.Concerned, t.Delegate)
		for _, above := range t.Above {
			r.Concerned = append(r.Concerned, above.Issuer)
		}
		if c.concerns(t) {
			return r, nil
		}
	case len(kept) > 1:
		return r, refuse(asap.CodeInvalidFilter, "issuer", "is needed: several agents have issued a token with this id")
	case issuer != "":
		r.Issuer = asap.AgentURN(issuer)
	case c.caller.Role == Operator:
		return r, problemOf(asap.CodeNotFound, "The node does not know this token: name its issuer to revoke it all the same")
	default:
		r.Issuer = c.caller.Agent
	}
	if c.caller.Role == Operator || r.Issuer == c.caller.Agent {
		return r, nil
	}
	related, err := a.related(c, r.Key())
	if err == nil && !related {
		err = problemOf(asap.CodeForbidden, "Only those who issued this token, or hold it, can revoke it")
	}
	return r, err
}

// maxReason bounds the reason of a revocation, in bytes.
const maxReason = 1024

// related tells whether the token in the header shows that the caller may revoke
// the link.
func (a *API) related(c *call, link ledger.BudgetKey) (bool, error) {
	tokens := c.r.Header.Values(delegationHeader)
	if len(tokens) != 1 || a.cfg.Delegations == nil || strings.HasPrefix(link.TokenID, KeyRevocationPrefix) {
		return false, nil
	}
	return a.cfg.Delegations.Related(tokens[0], link, c.caller.Agent)
}

// boolean reads what v1.3.0 reads as one.
func (q query) boolean(name string, def bool) (bool, error) {
	text, err := q.text(name)
	if err != nil || text == "" {
		return def, err
	}
	switch strings.ToLower(text) {
	case "true", "1", "yes", "on", "y", "t":
		return true, nil
	case "false", "0", "no", "off", "n", "f":
		return false, nil
	}
	return false, refuse(asap.CodeInvalidFilter, name, "must be true or false")
}

// delegationProblem is the problem of a token that is refused: the failing link,
// what a limit lacks, and what would help.
func delegationProblem(r *delegation.Refusal) *problem {
	p := problemOf(r.Code, r.Detail)
	if r.Code == asap.CodeDelegationTooLarge { // it came in a body
		p.Status, p.Title = http.StatusRequestEntityTooLarge, http.StatusText(http.StatusRequestEntityTooLarge)
	}
	if r.Link != delegation.NoLink {
		p.Link = &r.Link
	}
	p.Remedy = remedy(r.Code)
	p.authenticate = fmt.Sprintf("ASAP-Delegation error=%q", string(r.Code))
	if s := r.Shortage; s != nil {
		amount := func(n int64) string {
			if s.Cost {
				return delegation.FormatUSD(n)
			}
			return strconv.FormatInt(n, 10)
		}
		p.Shortage = &shortage{amount(s.Limit), amount(s.Used), amount(s.Held), amount(s.Remaining), amount(s.Needed)}
	}
	return p
}

// shortage says how a limit stood when it refused, in tasks or dollars.
type shortage struct {
	Limit     string `json:"limit"`
	Used      string `json:"used"`
	Held      string `json:"held"`
	Remaining string `json:"remaining"`
	Needed    string `json:"needed"`
}

// remedy says what would help; "" where nothing but another token does.
func remedy(code asap.Code) string {
	switch code {
	case asap.CodeDelegationEscalation:
		return "Ask for no more than the parent gives, or set clamp to have it lowered."
	case asap.CodeDelegationRootUntrusted:
		return "Name the token that gives you this as parent, or have the operator add you to delegation.roots."
	case asap.CodeDelegationUnknownIssuer:
		return "Register the issuer's public key with the node."
	case asap.CodeDelegationDepth:
		return "Have an agent nearer to the root delegate instead."
	case asap.CodeDelegationExpired, asap.CodeDelegationRevoked, asap.CodeDelegationLimitTasks, asap.CodeDelegationLimitCost:
		return "Ask the issuer for a new token."
	case asap.CodeDelegationLimitHeld, asap.CodeDelegationStateUnavailable:
		return "Try again later."
	case asap.CodeDelegationCostUnbounded:
		return "Have the operator set max_usd_per_task in the agent's price list."
	}
	return ""
}
