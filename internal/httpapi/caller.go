package httpapi

import (
	"errors"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// Role is what a caller is to the node.
type Role int

// The roles.
const (
	Anonymous Role = iota // no credentials
	AgentRole             // authenticated as Caller.Agent
	Operator              // may do everything
)

// Caller is who sent a request.
type Caller struct {
	Role  Role
	Agent asap.AgentURN // of an AgentRole
}

// admit identifies the caller and checks that its role may call the route. The
// texts of refusals are constant: they tell nothing about what is there.
func (a *API) admit(c *call, who access) error {
	caller, err := a.cfg.Authenticate(c.r)
	if err != nil {
		a.cfg.Logger.DebugContext(c.ctx(), "credentials refused", "path", c.r.URL.Path, "error", err)
		err = credentialsError(err)
	}
	if a.cfg.Limit != nil { // a caller nobody knows counts by its address
		if wait, ok := a.cfg.Limit(c.r, caller); !ok {
			p := problemOf(asap.CodeRateLimited, "")
			p.retryAfterSeconds = wait
			return p
		}
	}
	if err != nil {
		return err
	}
	c.caller = caller
	switch {
	case who == anyone, caller.Role == Operator && who != itself:
		return nil
	case caller.Role == Anonymous:
		return refusal(asap.CodeUnauthenticated)
	case who == operators, caller.Role == Operator:
		return refusal(asap.CodeForbidden)
	}
	return nil
}

// credentialsError is what strangers are told about credentials that are no
// good: nothing but that, unless the error has a code of its own.
func credentialsError(err error) error {
	var coded *asap.Error
	if errors.As(err, &coded) {
		return problemOf(coded.Code, coded.Message)
	}
	return problemOf(asap.CodeUnauthenticated, "Invalid authentication token")
}

// own narrows a filter to what the caller may see.
func (c *call) own(f metering.Filter) metering.Filter {
	if c.caller.Role != Operator {
		f.Party = c.caller.Agent
	}
	return f
}
