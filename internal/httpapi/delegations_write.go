package httpapi

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

// maxExpirySeconds is the longest life v1.3.0 gives.
const maxExpirySeconds = 365 * 24 * 60 * 60

// delegationBody documents what createDelegation reads.
type delegationBody struct {
	Delegate  string   `json:"delegate" doc:"URN of the agent that may act"`
	Scopes    []string `json:"scopes" minItems:"1"`
	ExpiresIn *int64   `json:"expires_in_seconds,omitempty" nullable:"true" minimum:"1" maximum:"31536000" doc:"86400 if left out, or until the parent's end if that is sooner"`
	MaxTasks  *int64   `json:"max_tasks,omitempty" nullable:"true" minimum:"0"`
	MaxCost   *float64 `json:"max_cost_usd,omitempty" nullable:"true" minimum:"0" doc:"a number, or its text; taken digit by digit"`
	Parent    *string  `json:"parent,omitempty" nullable:"true" doc:"the token to pass on"`
	MaxDepth  *int64   `json:"max_depth,omitempty" nullable:"true" minimum:"0" maximum:"7"`
	BindJKT   *string  `json:"bind_jkt,omitempty" nullable:"true" doc:"thumbprint of the delegate's key, which it must prove to hold"`
	Resources []string `json:"res,omitempty" nullable:"true" doc:"the servers it is for, by URN or origin"`
	Clamp     bool     `json:"clamp,omitempty" nullable:"true" doc:"lower what exceeds the parent instead of refusing"`
}

type delegationCreated struct {
	Token     string                `json:"token"`
	ID        string                `json:"id"`
	ExpiresAt string                `json:"expires_at" format:"date-time"`
	Chain     []delegation.LinkView `json:"chain" doc:"root first"`
}

// createRequest is the body as it is read: leniently where v1.3.0 is.
type createRequest struct {
	Delegate  *string        `json:"delegate"`
	Scopes    *[]string      `json:"scopes"`
	ExpiresIn jsontext.Value `json:"expires_in_seconds"`
	MaxTasks  jsontext.Value `json:"max_tasks"`
	MaxCost   jsontext.Value `json:"max_cost_usd"`
	Parent    *string        `json:"parent"`
	MaxDepth  jsontext.Value `json:"max_depth"`
	BindJKT   *string        `json:"bind_jkt"`
	Resources textList       `json:"res"`
	Clamp     bool           `json:"clamp"`
}

// createDelegation signs for the caller, and for nobody else.
func (a *API) createDelegation(c *call) error {
	v, err := a.body(c)
	if err != nil {
		return err
	}
	var in createRequest
	if err := readForm(v, &in, "a delegation"); err != nil {
		return err
	}
	terms, err := a.terms(c, &in)
	if err != nil {
		return err
	}
	if a.cfg.Delegations == nil {
		return refusal(asap.CodeDelegationNoKey)
	}
	parent := ""
	if in.Parent != nil {
		parent = *in.Parent
	}
	token, err := a.cfg.Delegations.Create(c.ctx(), parent, terms, in.Clamp)
	if err != nil {
		return err
	}
	view, err := delegation.Inspect(token, a.cfg.Now())
	if err != nil {
		return err
	}
	leaf := view.Links[len(view.Links)-1]
	c.w.Header().Set("Location", strings.TrimSuffix(c.r.URL.Path, "/")+"/"+leaf.TokenID)
	return writeJSON(c.w, http.StatusCreated, delegationCreated{Token: token, ID: leaf.TokenID, ExpiresAt: view.ExpiresAt, Chain: view.Links})
}

func (a *API) terms(c *call, in *createRequest) (delegation.Terms, error) {
	invalid := func(name, format string, args ...any) error {
		return refuse(asap.CodeValidation, name, format, args...)
	}
	t := delegation.Terms{Issuer: c.caller.Agent, Resources: in.Resources, IssuedAt: a.cfg.Now()}
	switch {
	case in.Delegate == nil:
		return t, invalid("delegate", "is missing")
	case in.Scopes == nil || len(*in.Scopes) == 0:
		return t, invalid("scopes", "must hold at least one scope")
	}
	if _, err := asap.ParseAgentURN(*in.Delegate); err != nil {
		return t, invalid("delegate", "%v", err)
	}
	t.Delegate, t.Scopes = asap.AgentURN(*in.Delegate), *in.Scopes
	if in.BindJKT != nil {
		t.ConfirmJKT = *in.BindJKT
	}
	seconds, given, err := wholeNumber(in.ExpiresIn)
	switch {
	case err != "":
		return t, invalid("expires_in_seconds", "%s", err)
	case given && (seconds < 1 || seconds > maxExpirySeconds):
		return t, invalid("expires_in_seconds", "must be between 1 and %d", maxExpirySeconds)
	case given:
		t.ExpiresAt = t.IssuedAt.Add(time.Duration(seconds) * time.Second)
	default:
		t.ExpiresAt = t.IssuedAt.Add(delegation.DefaultLifetime)
		if in.Parent != nil {
			// A parent that cannot be read is refused by whoever signs.
			if chain, err := delegation.Parse(*in.Parent); err == nil && t.ExpiresAt.After(chain.ExpiresAt()) {
				t.ExpiresAt = chain.ExpiresAt()
			}
		}
	}
	for _, limit := range []struct {
		name string
		from jsontext.Value
		to   **int64
	}{{"max_tasks", in.MaxTasks, &t.MaxTasks}, {"max_depth", in.MaxDepth, &t.MaxDepth}} {
		n, given, err := wholeNumber(limit.from)
		if err != "" || n < 0 {
			return t, invalid(limit.name, "must be a whole number, not below 0")
		}
		if given {
			*limit.to = &n
		}
	}
	if in.MaxCost != nil && in.MaxCost.Kind() != 'n' {
		text := string(in.MaxCost)
		if in.MaxCost.Kind() == '"' {
			text = strings.Trim(text, `"`)
		}
		nanoUSD, err := delegation.ParseLimitUSD(text)
		if err != nil {
			return t, invalid("max_cost_usd", "%v", err)
		}
		t.MaxNanoUSD = &nanoUSD
	}
	return t, nil
}

// wholeNumber reads an integer as v1.3.0 does: a number without fraction, or the
// text of one; null is none.
func wholeNumber(v jsontext.Value) (n int64, given bool, wrong string) {
	switch v.Kind() {
	case 0, 'n':
		return 0, false, ""
	case '0':
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return 0, true, "must be a whole number"
		}
		return int64(f), true, ""
	case '"':
		n, err := strconv.ParseInt(strings.TrimSpace(strings.Trim(string(v), `"`)), 10, 64)
		if err != nil {
			return 0, true, "must be a whole number"
		}
		return n, true, ""
	}
	return 0, true, "must be a whole number"
}

// delegationQuestion documents what verifyDelegation reads.
type delegationQuestion struct {
	Token   string      `json:"token"`
	Caller  *string     `json:"caller,omitempty" nullable:"true" doc:"who would use it; the caller if left out"`
	Action  *string     `json:"action,omitempty" nullable:"true" doc:"the scope the use needs; task.execute if left out"`
	At      *int64      `json:"at,omitempty" nullable:"true" minimum:"-62135596800" maximum:"253402300799" doc:"seconds since 1970; now if left out"`
	Roots   []string    `json:"roots,omitempty" nullable:"true" doc:"of the node's root authorities, only these"`
	Revoked []revokedID `json:"revoked,omitempty" nullable:"true" doc:"revoked besides what the node knows: issuer|jti"`
	Explain bool        `json:"explain,omitempty" nullable:"true" doc:"list the steps"`
}

// revokedID is issuer|jti.
type revokedID string

// Schema documents how that is written.
func (revokedID) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: revokedPattern}
}

// questionRequest is the body as it is read.
type questionRequest struct {
	Token   *string        `json:"token"`
	Caller  *string        `json:"caller"`
	Action  *string        `json:"action"`
	At      jsontext.Value `json:"at"`
	Roots   textList       `json:"roots"`
	Revoked textList       `json:"revoked"`
	Explain bool           `json:"explain"`
}

// textList is a list of texts, none of which is null, or null for none.
type textList []string

// UnmarshalJSON reads the list.
func (l *textList) UnmarshalJSON(b []byte) error {
	var texts []*string
	if err := json.Unmarshal(b, &texts); err != nil || texts == nil {
		return err
	}
	*l = make(textList, len(texts))
	for i, text := range texts {
		if text == nil {
			return errors.New("a list of texts holds null")
		}
		(*l)[i] = *text
	}
	return nil
}

// The first and the last second that a time can be of.
const (
	minSeconds = -62_135_596_800
	maxSeconds = 253_402_300_799
)

// readForm reads an object without members that to does not have. What says what
// it should be.
func readForm(v jsontext.Value, to any, what string) error {
	if v.Kind() != '{' {
		return problemOf(asap.CodeValidation, "The body does not have the form of "+what+": it is not an object.")
	}
	if err := json.Unmarshal(v, to, json.RejectUnknownMembers(true)); err != nil {
		return problemOf(asap.CodeValidation, "The body does not have the form of "+what+": "+err.Error())
	}
	return nil
}

type delegationVerdict struct {
	Allow  bool                    `json:"allow"`
	Code   asap.Code               `json:"code,omitempty"`
	Link   *int                    `json:"link,omitzero"`
	HTTP   int                     `json:"http,omitzero"`
	Detail string                  `json:"detail,omitempty"`
	Steps  []delegation.StepResult `json:"steps,omitempty"`
}

// verifyDelegation judges a token. What it is refused for is the answer, not an
// error of this route.
func (a *API) verifyDelegation(c *call) error {
	v, err := a.body(c)
	if err != nil {
		return err
	}
	var in questionRequest
	if err := readForm(v, &in, "a question"); err != nil {
		return err
	}
	if in.Token == nil {
		return refuse(asap.CodeValidation, "token", "is missing")
	}
	q := DelegationQuestion{Caller: c.caller.Agent, Action: delegation.ScopeTaskExecute, Now: a.cfg.Now(), Roots: in.Roots}
	if in.Caller != nil {
		q.Caller = asap.AgentURN(*in.Caller)
	}
	if in.Action != nil {
		q.Action = *in.Action
	}
	seconds, given, wrong := wholeNumber(in.At)
	if wrong == "" && (seconds < minSeconds || seconds > maxSeconds) {
		wrong = "must be within the years 1 to 9999"
	}
	if wrong != "" {
		return refuse(asap.CodeValidation, "at", "%s", wrong)
	}
	if given {
		q.Now = time.Unix(seconds, 0)
	}
	for _, line := range in.Revoked { // the form of a file has empty lines and comments too
		if !strings.Contains(line, "|") || strings.ContainsAny(line, "#\r\n") {
			return refuse(asap.CodeValidation, "revoked", "is not a list of issuer|jti")
		}
	}
	if in.Revoked != nil {
		if q.Revoked, err = delegation.ParseRevocations(strings.NewReader(strings.Join(in.Revoked, "\n"))); err != nil {
			return refuse(asap.CodeValidation, "revoked", "%v", err)
		}
	}
	if a.cfg.Delegations == nil {
		return refusal(asap.CodeDelegationStateUnavailable)
	}
	err = a.cfg.Delegations.Judge(c.ctx(), *in.Token, q)
	out := delegationVerdict{Allow: err == nil}
	if err != nil {
		r := delegation.AsRefusal(err)
		if r == nil {
			return err
		}
		p := delegationProblem(r)
		out.Code, out.Link, out.HTTP, out.Detail = r.Code, p.Link, p.Status, r.Detail
	}
	if in.Explain {
		out.Steps = delegation.Explain(err)
	}
	return writeJSON(c.w, http.StatusOK, out)
}
