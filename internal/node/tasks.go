package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// tasks lets the agents of this node reach its ledger: it is the translation
// between the words of package agent, which is public, and those of ledger.
type tasks struct {
	ledger *ledger.Ledger
	prices *atomic.Pointer[metering.PriceBook]
	now    func() time.Time
}

// Admit implements agent.Ledger.
func (t tasks) Admit(ctx context.Context, a agent.Admission) (agent.Admitted, error) {
	if a.Delegation != "" {
		return agent.Admitted{}, &agent.Refusal{
			Code: "delegation_unsupported", Message: "this node does not accept delegations; send the task without one",
		}
	}
	admission := ledger.Admission{
		TaskID: a.TaskID, Consumer: a.Consumer, EnvelopeID: a.EnvelopeID, Digest: a.Digest,
		Agent: a.Agent, Verified: a.Verified, Skill: a.Skill, ParentTask: a.ParentTask, TraceID: a.TraceID,
		ExpiresAt: a.ExpiresAt,
	}
	if list := t.prices.Load().At(a.Agent, t.now()); list != nil {
		if ceiling, ok := list.Ceiling(a.Skill, ""); ok {
			admission.Ceiling = &ceiling
		}
	}
	admitted, err := t.ledger.Admit(ctx, admission)
	if err != nil {
		return agent.Admitted{}, agentError(err)
	}
	out := agent.Admitted{TaskID: admitted.TaskID, Receipt: agent.Receipt(admitted.Receipt)}
	if r := admitted.Replay; r != nil {
		out.Replay, out.Answer, out.Receipt = true, r.Answer, agent.Receipt(r.Receipt)
		out.Ended, out.FailureCode = r.State != ledger.Held, r.Failure
	}
	return out, nil
}

// Settle implements agent.Ledger.
func (t tasks) Settle(ctx context.Context, s agent.Settlement) (agent.Receipt, error) {
	q := s.Quantities
	record := metering.Record{
		Kind: metering.Usage, TaskID: s.TaskID, Agent: s.Agent, Consumer: s.Consumer, Verified: s.Verified,
		Skill: s.Skill, Outcome: metering.Outcome(s.Outcome), ParentTask: s.ParentTask, TraceID: s.TraceID,
		TokensIn: q.TokensIn, TokensOut: q.TokensOut, Tokens: metering.Tokens(q.Tokens), APICalls: q.APICalls,
		Model: q.Model, Evidence: metering.Evidence(q.Evidence), DurationMS: &s.DurationMS, Timestamp: s.EndedAt.UTC().Truncate(time.Microsecond),
	}
	if record.Evidence == "" { // nothing was reported: the duration is what this node saw
		record.Evidence = metering.Observed
	}
	settled, err := t.ledger.Settle(ctx, ledger.Settlement{TaskID: s.TaskID, Record: record, Failure: s.FailureCode, Answer: s.Answer})
	if err != nil {
		return agent.Receipt{}, agentError(err)
	}
	return agent.Receipt(settled.Receipt), nil
}

// agentError gives the ledger's errors the names package agent has for them.
func agentError(err error) error {
	var limit *ledger.LimitError
	switch {
	case errors.As(err, &limit):
		return &agent.Refusal{Code: limit.Code(), Message: limit.Error()}
	case errors.Is(err, ledger.ErrConflict):
		return fmt.Errorf("%w: %w", agent.ErrConflict, err)
	case errors.Is(err, ledger.ErrUnavailable), errors.Is(err, ledger.ErrOutcomeUnknown):
		return fmt.Errorf("%w: %w", agent.ErrUnavailable, err)
	}
	return err
}
