package slawatch

import (
	"strings"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/sla"
)

// outcome is the end of a task in the words of the rules.
func (e *TaskEnd) outcome() sla.Outcome {
	o := sla.Outcome{Agent: e.Agent, TaskID: e.TaskID, At: e.EndedAt, Outcome: e.Outcome, LatencyMS: e.DurationMS, Once: e.Observed, Delegation: e.Delegation}
	if e.Outcome == sla.OutcomeFailed {
		o.Cause = cause(e.Failure)
	}
	if e.Outcome == sla.OutcomeCancelled {
		o.ByAgent = asap.Code(e.Failure) == asap.CodeShuttingDown
		if e.DurationMS != nil {
			o.ElapsedMS = *e.DurationMS
		}
	}
	return o
}

// cause tells failures of the caller from those of the agent. What is not known
// to be the caller's fault is the agent's.
func cause(failure string) string {
	switch code := asap.Code(failure); {
	case strings.HasPrefix(failure, "delegation_"):
		return "delegation"
	case failure == "insufficient_funds":
		return "insufficient_funds"
	case failure == "invalid_input", code == asap.CodePayloadInvalid, code == asap.CodeValidation, code == asap.CodeInvalidParams,
		code == asap.CodeSkillUnknown, code == asap.CodeRequestTooLarge:
		return "invalid_input"
	case failure == "unauthorized", code == asap.CodeUnauthenticated, code == asap.CodeSenderMismatch:
		return "unauthorized"
	case code == asap.CodeForbidden:
		return "forbidden"
	}
	return ""
}
