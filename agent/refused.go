package agent

import (
	"context"
	"errors"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/delegation"
)

// RefusedTask is a task request that started nothing, and why.
type RefusedTask struct {
	Consumer   asap.AgentURN // who asked, known by credentials
	Agent      asap.AgentURN
	EnvelopeID asap.EnvelopeID
	Skill      string // as asked for; empty if the request could not be read
	Code       asap.Code
}

// tellRefused tells Config.Refused of a task request whose sender is known and
// that was refused. What is only not known, or not recorded, is no refusal.
func (s *Server) tellRefused(ctx context.Context, c *call, err error) {
	if s.cfg.Refused == nil || !c.caller.Verified {
		return
	}
	if kind, ok := asap.CanonicalPayloadType(c.envelope.PayloadType); !ok || kind != asap.KindTaskRequest {
		return
	}
	code := refusalCode(err)
	if code == "" {
		return
	}
	refused := RefusedTask{Consumer: c.envelope.Sender, Agent: s.recipient(c.envelope).URN(), EnvelopeID: c.envelope.ID, Code: code}
	if request, err := asap.ParseTaskRequest(c.envelope.Payload); err == nil {
		refused.Skill = request.SkillID
	}
	s.cfg.Refused(ctx, refused)
}

// refusalCode is the code of a refusal; "" for an error that is none.
func refusalCode(err error) asap.Code {
	var (
		full    *overload
		refusal *Refusal
		coded   *asap.Error
		rpc     *asap.RPCError
	)
	if r := delegation.AsRefusal(err); r != nil {
		if errors.Is(err, ErrUnavailable) || r.Code == asap.CodeDelegationStateUnavailable {
			return ""
		}
		return r.Code
	}
	switch {
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrOutcomeUnknown):
		return ""
	case errors.As(err, &full):
		return asap.CodeThreadPool
	case errors.As(err, &rpc):
		return asap.CodeInvalidParams
	case errors.As(err, &coded):
		return coded.Code
	case errors.As(err, &refusal):
		return asap.Code(refusal.Code)
	}
	return ""
}
