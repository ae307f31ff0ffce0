package delegation

import (
	"fmt"
	"slices"
	"time"

	asap "github.com/asap-protocol/asap-go"
)

// Inspection is the unverified view of a token, for a person.
type Inspection struct {
	// Links is the chain, root first; each link is the child of the one before.
	Links []LinkView `json:"links"`
	// Principal and Actor are who pays and who acts.
	Principal string `json:"principal"`
	Actor     string `json:"actor"`
	// ExpiresAt is the earliest expiry of all links, RFC 3339, and ExpiresIn
	// the seconds until then, negative once it has passed.
	ExpiresAt string `json:"expires_at"`
	ExpiresIn int64  `json:"expires_in_seconds"`
	// MaxTasks and MaxCostUSD are the tightest limits, null where there is none.
	MaxTasks   *int64  `json:"max_tasks"`
	MaxCostUSD *string `json:"max_cost_usd"`
	// Warnings say what a careful person would look at, in no fixed wording.
	Warnings []string `json:"warnings"`
}

// LinkView is one link of an [Inspection].
type LinkView struct {
	Index      int      `json:"index"`
	Issuer     string   `json:"iss"`
	Delegate   string   `json:"aud"`
	TokenID    string   `json:"jti"`
	Algorithm  string   `json:"alg"`
	KeyID      string   `json:"kid,omitempty"`
	IssuedAt   string   `json:"issued_at"`
	NotBefore  string   `json:"not_before,omitempty"`
	ExpiresAt  string   `json:"expires_at"`
	ExpiresIn  int64    `json:"expires_in_seconds"`
	Scopes     []string `json:"scopes"`
	MaxTasks   *int64   `json:"max_tasks"`
	MaxCostUSD *string  `json:"max_cost_usd"`
	MaxDepth   *int64   `json:"max_depth,omitempty"`
	Resources  []string `json:"res,omitempty"`
	BoundTo    string   `json:"cnf_jkt,omitempty"`
}

// Inspect reads a token without verifying anything. Its error is the *Refusal
// of a token that cannot be read.
func Inspect(token string, now time.Time) (*Inspection, error) {
	chain, err := Parse(token)
	if err != nil {
		return nil, err
	}
	tasks, nanoUSD := chain.Limits()
	end := chain.ExpiresAt()
	out := &Inspection{
		Principal: string(chain.Principal()), Actor: string(chain.Actor()),
		ExpiresAt: end.Format(time.RFC3339), ExpiresIn: end.Unix() - now.Unix(),
		MaxTasks: tasks, MaxCostUSD: usdText(nanoUSD), Warnings: warnings(chain, now),
	}
	for i := range chain.links {
		l := &chain.links[i]
		view := LinkView{
			Index: i, Issuer: string(l.Issuer), Delegate: string(l.Delegate), TokenID: l.TokenID,
			Algorithm: l.alg, KeyID: l.KeyID,
			IssuedAt: l.IssuedAt().Format(time.RFC3339), ExpiresAt: l.ExpiresAt().Format(time.RFC3339),
			ExpiresIn: l.ExpiresAtUnix - now.Unix(), Scopes: l.Scopes,
			MaxTasks: l.LimitTasks, MaxCostUSD: usdText(l.LimitNanoUSD), MaxDepth: l.MaxDepth,
			Resources: l.Resources, BoundTo: l.ConfirmJKT,
		}
		if l.NotBeforeUnix != 0 {
			view.NotBefore = time.Unix(l.NotBeforeUnix, 0).UTC().Format(time.RFC3339)
		}
		out.Links = append(out.Links, view)
	}
	return out, nil
}

func usdText(nanoUSD *int64) *string {
	if nanoUSD == nil {
		return nil
	}
	text := FormatUSD(*nanoUSD)
	return &text
}

func warnings(chain *Chain, now time.Time) []string {
	out := []string{}
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, check := range []func([]Link) *Refusal{checkLinkage, checkCeiling, checkNarrowing} {
		if r := check(chain.links); r != nil {
			warn("would be refused: %s", r)
			break
		}
	}
	if first, last := chain.latestStart(), chain.ExpiresAt().Unix(); now.Unix() < first || now.Unix() >= last {
		warn("would be refused: %s", refuseTimes(chain.links, now.Unix()))
	}
	if slices.ContainsFunc(chain.Leaf().Scopes, func(s string) bool { return s == ScopeAll }) {
		warn("the scope * allows every action")
	}
	if tasks, nanoUSD := chain.Limits(); tasks == nil && nanoUSD == nil {
		warn("no limit of tasks or cost")
	}
	if left := chain.ExpiresAt().Sub(now); left > 30*24*time.Hour {
		warn("valid for another %d days", int(left/(24*time.Hour)))
	}
	return out
}

// latestStart is the first second, in Unix time, at which no link lies in the
// future.
func (c *Chain) latestStart() int64 {
	start := c.links[0].NotBeforeUnix
	for i := range c.links {
		start = max(start, c.links[i].IssuedAtUnix-int64(ClockSkew/time.Second), c.links[i].NotBeforeUnix)
	}
	return start
}

// StepResult says how far a verification came at one step.
type StepResult struct {
	// Step names the step.
	Step string `json:"step"`
	// Result is "passed", "failed", "not reached", or, for the counting of
	// limits, which only a node can do, "not checked".
	Result string `json:"result"`
	// Code, Link and Detail are set where the step failed.
	Code   asap.Code `json:"code,omitempty"`
	Link   *int      `json:"link,omitempty"`
	Detail string    `json:"detail,omitempty"`
}

// Explain lists the steps in order, with the outcome of a verification: err is
// what Verify returned. An error that is no refusal explains nothing.
func Explain(err error) []StepResult {
	failed := stepCount
	r := AsRefusal(err)
	if r != nil {
		failed = r.Step
	} else if err != nil {
		return nil
	}
	out := make([]StepResult, stepCount)
	for s := range stepCount {
		out[s] = StepResult{Step: s.String(), Result: "passed"}
		switch {
		case s > failed:
			out[s].Result = "not reached"
		case s == failed:
			out[s].Result, out[s].Code, out[s].Detail = "failed", r.Code, r.Detail
			if r.Link >= 0 {
				out[s].Link = &r.Link
			}
		case s == StepLimits:
			out[s].Result = "not checked"
		}
	}
	return out
}
