package delegation

import (
	"errors"
	"fmt"
	"strconv"

	asap "github.com/asap-protocol/asap-go"
)

// Step is one row of the order of checks. Steps are compared by number: the
// lowest failing step of a token decides about it.
type Step int

// The steps, in order.
const (
	StepSize Step = iota
	StepLinkCount
	StepShape
	StepIssuerKeys
	StepRoot
	StepSignatures
	StepLinkage
	StepDepthCeiling
	StepTimes
	StepAttenuation
	StepRevocation
	StepAudience
	StepScope
	StepProof
	StepLimits
	StepState
	stepCount
)

var stepNames = [stepCount]string{
	"size", "number of links", "encoding, header and claims", "keys of the issuers", "root authority",
	"signatures", "linkage", "depth ceiling", "iat, nbf, exp", "child within parent", "revocation",
	"audience", "scope", "proof of possession", "limits", "state readable",
}

// String names the step.
func (s Step) String() string {
	if s < 0 || s >= stepCount {
		return "step " + strconv.Itoa(int(s))
	}
	return stepNames[s]
}

// NoLink is the Link of a refusal that no single link caused.
const NoLink = -1

// Refusal is the error of a token that is not accepted. It is safe to show to
// the caller: it says nothing the token itself does not.
type Refusal struct {
	// Code is the reason.
	Code asap.Code
	// Step is the failing step.
	Step Step
	// Link is the index of the failing link, 0 being the root, or NoLink.
	Link int
	// Detail is one sentence for a person, lower case.
	Detail string
	// Shortage is set where a limit stands in the way and its counters are
	// known; only the ledger knows them.
	Shortage *Shortage
	// Err is the cause of asap.CodeDelegationStateUnavailable, for operators; it is not part
	// of the text.
	Err error
}

// Shortage says how a limit stood when it refused: max_tasks in tasks, or
// max_cost_usd in nano-dollars.
type Shortage struct {
	Cost                                 bool
	Limit, Used, Held, Remaining, Needed int64
}

// Refuse makes the refusal of a limit or of unreadable state, for those who
// count: the codes of the steps before are this package's own.
func Refuse(code asap.Code, link int, detail string) *Refusal {
	step := StepLimits
	if code == asap.CodeDelegationStateUnavailable {
		step = StepState
	}
	return &Refusal{Code: code, Step: step, Link: link, Detail: detail}
}

// Error states the code, the link and the detail.
func (r *Refusal) Error() string {
	if r.Link < 0 {
		return string(r.Code) + ": " + r.Detail
	}
	return string(r.Code) + ": link " + strconv.Itoa(r.Link) + ": " + r.Detail
}

// Unwrap returns the cause of unreadable state, if there is one.
func (r *Refusal) Unwrap() error { return r.Err }

// HTTP is the status a REST route answers with. A token refused for its size
// gets 431, which is meant for headers; a route that read it from a body answers
// 413 instead.
func (r *Refusal) HTTP() int { return r.Code.Info().HTTP }

// RPC is the number of the JSON-RPC error.
func (r *Refusal) RPC() int { return r.Code.Info().RPC }

// Protocol is the refusal as the error of the protocol: the details hold link,
// and the counters of a limit, tasks as integers and dollars as decimal texts.
func (r *Refusal) Protocol() *asap.Error {
	details := []byte("{")
	if r.Link >= 0 {
		details = strconv.AppendInt(append(details, `"link":`...), int64(r.Link), 10)
	}
	if s := r.Shortage; s != nil {
		for _, m := range [...]struct {
			name  string
			value int64
		}{{"limit", s.Limit}, {"used", s.Used}, {"held", s.Held}, {"remaining", s.Remaining}, {"needed", s.Needed}} {
			if len(details) > 1 {
				details = append(details, ',')
			}
			details = append(append(append(details, '"'), m.name...), `":`...)
			if s.Cost {
				details = append(appendUSD(append(details, '"'), m.value), '"')
			} else {
				details = strconv.AppendInt(details, m.value, 10)
			}
		}
	}
	return &asap.Error{Code: r.Code, Message: r.Detail, Details: append(details, '}')}
}

// TaxonomyURI names the refusal in the protocol's taxonomy.
func (r *Refusal) TaxonomyURI() string { return "asap:delegation/" + string(r.Code) }

// AsRefusal returns the refusal in err's chain, or nil.
func AsRefusal(err error) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return nil
}

func refusef(code asap.Code, step Step, link int, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Step: step, Link: link, Detail: fmt.Sprintf(format, args...)}
}
