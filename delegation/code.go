package delegation

import (
	"errors"
	"fmt"
	"strconv"
)

// Code is the stable name of a reason for refusal, as it stands in
// error.data.code and in problem documents.
type Code string

// The codes of delegation, in the order in which the steps are checked.
const (
	// CodeTooLarge: more than MaxTokenBytes in all or MaxLinkBytes in a link.
	CodeTooLarge Code = "delegation_too_large"
	// CodeDepth: more than MaxLinks links, or deeper than an ancestor allows.
	CodeDepth Code = "delegation_depth"
	// CodeMalformed: encoding, header or claims are not of the required shape.
	CodeMalformed Code = "delegation_malformed"
	// CodeUnsupportedAlg: the header names no algorithm or another than EdDSA.
	CodeUnsupportedAlg Code = "delegation_unsupported_alg"
	// CodeUnknownIssuer: no usable key is known for the issuer of a link.
	CodeUnknownIssuer Code = "delegation_unknown_issuer"
	// CodeRootUntrusted: the first link's issuer is no root authority here.
	CodeRootUntrusted Code = "delegation_root_untrusted"
	// CodeBadSignature: a signature does not verify with the issuer's key.
	CodeBadSignature Code = "delegation_bad_signature"
	// CodeChainBroken: a link does not follow from the one before it.
	CodeChainBroken Code = "delegation_chain_broken"
	// CodeNotYetValid: issued in the future, or before its not-before time.
	CodeNotYetValid Code = "delegation_not_yet_valid"
	// CodeExpired: the expiry of a link has been reached.
	CodeExpired Code = "delegation_expired"
	// CodeEscalation: a link claims more than the link before it gave.
	CodeEscalation Code = "delegation_escalation"
	// CodeRevoked: a link was revoked, and with it everything below.
	CodeRevoked Code = "delegation_revoked"
	// CodeAudience: the caller is not the last delegate, or this server is not
	// among the resources the token is for.
	CodeAudience Code = "delegation_audience"
	// CodeScope: a link's scopes do not cover the action.
	CodeScope Code = "delegation_scope"
	// CodeProofRequired: proof of possession is demanded and was not given.
	CodeProofRequired Code = "delegation_proof_required"
	// CodeProofInvalid: the proof of possession given does not hold.
	CodeProofInvalid Code = "delegation_proof_invalid"
	// CodeLimitTasks: max_tasks of a link is used up, for good.
	CodeLimitTasks Code = "delegation_limit_tasks"
	// CodeLimitCost: max_cost_usd of a link is used up, for good.
	CodeLimitCost Code = "delegation_limit_cost"
	// CodeCostUnbounded: a cost limit, and no ceiling known for the task.
	CodeCostUnbounded Code = "delegation_cost_unbounded"
	// CodeLimitHeld: open holds cover what is left; it may come free.
	CodeLimitHeld Code = "delegation_limit_held"
	// CodeStateUnavailable: revocations or counters cannot be read now.
	CodeStateUnavailable Code = "delegation_state_unavailable"
)

// Numbers of the JSON-RPC errors that carry a code of delegation.
const (
	// RPCTokenInvalid: the token, or the proof that came with it, is invalid.
	RPCTokenInvalid = -32053
	// RPCNotPermitted: the token is sound but does not permit this.
	RPCNotPermitted = -32054
	// RPCNoLongerValid: the token is revoked or expired.
	RPCNoLongerValid = -32055
	// RPCLimit: a limit of the token stands in the way.
	RPCLimit = -32041
	// RPCInternal is JSON-RPC's own internal error, for unreadable state.
	RPCInternal = -32603
)

// HTTP is the status a REST route answers with for the code. A token refused
// for its size gets 431, which is meant for headers; a route that read it from
// a body answers 413 instead.
func (c Code) HTTP() int {
	switch c {
	case CodeTooLarge:
		return 431
	case CodeMalformed:
		return 400
	case CodeUnsupportedAlg, CodeUnknownIssuer, CodeBadSignature, CodeNotYetValid, CodeExpired,
		CodeRevoked, CodeProofRequired, CodeProofInvalid:
		return 401
	case CodeLimitHeld:
		return 429
	case CodeStateUnavailable:
		return 503
	default:
		return 403
	}
}

// RPC is the number of the JSON-RPC error for the code.
func (c Code) RPC() int {
	switch c {
	case CodeExpired, CodeRevoked:
		return RPCNoLongerValid
	case CodeDepth, CodeRootUntrusted, CodeEscalation, CodeAudience, CodeScope:
		return RPCNotPermitted
	case CodeLimitTasks, CodeLimitCost, CodeCostUnbounded, CodeLimitHeld:
		return RPCLimit
	case CodeStateUnavailable:
		return RPCInternal
	default:
		return RPCTokenInvalid
	}
}

// RetryLater tells whether the same request may succeed later without a new
// token, so that a Retry-After belongs on the answer.
func (c Code) RetryLater() bool { return c == CodeLimitHeld || c == CodeStateUnavailable }

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
	Code Code
	// Step is the failing step.
	Step Step
	// Link is the index of the failing link, 0 being the root, or NoLink.
	Link int
	// Detail is one sentence for a person, lower case.
	Detail string
	// Shortage is set where a limit stands in the way and its counters are
	// known; only the ledger knows them.
	Shortage *Shortage
	// Err is the cause of CodeStateUnavailable, for operators; it is not part
	// of the text.
	Err error
}

// Shortage says how a limit stood when it refused. Tasks are counted one by
// one, money in nano-dollars. Used, held and remaining add up to the limit.
type Shortage struct {
	Limit, Used, Held, Remaining, Needed int64
}

// Refuse makes the refusal of a limit or of unreadable state, for those who
// count: the codes of the steps before are this package's own.
func Refuse(code Code, link int, detail string) *Refusal {
	step := StepLimits
	if code == CodeStateUnavailable {
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

// HTTP is the status a REST route answers with.
func (r *Refusal) HTTP() int { return r.Code.HTTP() }

// RPC is the number of the JSON-RPC error.
func (r *Refusal) RPC() int { return r.Code.RPC() }

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

func refusef(code Code, step Step, link int, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Step: step, Link: link, Detail: fmt.Sprintf(format, args...)}
}
