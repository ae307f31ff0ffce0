package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/notify"
)

// tasks lets the agents of this node reach its ledger: it is the translation
// between the words of package agent, which is public, and those of ledger.
type tasks struct {
	ledger *ledger.Ledger
	store  Store
	prices *atomic.Pointer[metering.PriceBook]
	now    func() time.Time
	// follower tells when the log moves.
	follower *notify.Follower
}

// Admit implements agent.Ledger.
func (t tasks) Admit(ctx context.Context, a agent.Admission) (agent.Admitted, error) {
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
	if a.Use != nil {
		admission.Links, admission.Tokens = ledgerLinks(a.Use.Chain()), ledgerTokens(a.Use.Chain())
	} else if a.Delegation != "" { // the agent judges it before it comes here
		return agent.Admitted{}, errors.New("a delegation that nobody has verified")
	}
	admitted, err := t.ledger.Admit(ctx, admission)
	if err != nil {
		return agent.Admitted{}, t.refusal(ctx, a.Use, err)
	}
	if a.Use != nil && admitted.Replay == nil {
		a.Use.Report(tightest(admitted.Budgets))
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
		return agent.Receipt{}, settleError(err)
	}
	if s.Use != nil && len(settled.Budgets) > 0 {
		s.Use.Report(tightest(settled.Budgets))
	}
	return agent.Receipt(settled.Receipt), nil
}

// settleError is the answer to a settlement that was not made, or not yet.
func settleError(err error) error {
	var ended *ledger.TaskEndedError
	switch {
	case errors.As(err, &ended) && ended.As.State == ledger.Expired:
		return &agent.Superseded{As: agent.Admitted{Replay: true, Ended: true, TaskID: ended.TaskID, Answer: ended.As.Answer,
			FailureCode: ended.As.Failure, Receipt: agent.Receipt(ended.As.Receipt)}}
	case errors.Is(err, context.DeadlineExceeded): // to settle again alike changes nothing
		return fmt.Errorf("%w: %w", agent.ErrUnavailable, err)
	}
	return agentError(err)
}

// refusal is the answer to a task that was not admitted, in the words of package
// delegation where its delegation is the reason.
func (t tasks) refusal(ctx context.Context, use *agent.Delegation, err error) error {
	if use == nil {
		return agentError(err)
	}
	var (
		limit   *ledger.LimitError
		revoked *ledger.RevokedError
		reused  *ledger.TokenReusedError
		open    *ledger.CostUnboundedError
	)
	switch {
	case errors.As(err, &limit):
		// A budget that cannot be read leaves the refusal as it is, without figures.
		if left, budgetErr := use.Budget(ctx); budgetErr == nil {
			if limit.Unit == ledger.UnitCost {
				left.RequiredNanoUSD = limit.Needed
			}
			use.Report(left)
		}
		return limitRefusal(limit)
	case errors.As(err, &revoked):
		return &delegation.Refusal{Code: asap.CodeDelegationRevoked, Step: delegation.StepRevocation, Link: revoked.Link, Detail: "the link was revoked"}
	case errors.As(err, &reused):
		return delegation.Refuse(asap.CodeDelegationIDReused, reused.Link, "the token id came with other limits before")
	case errors.As(err, &open):
		return delegation.Refuse(asap.CodeDelegationCostUnbounded, open.Link, "max_cost_usd is set, and no price list bounds what this task may cost (max_usd_per_task)")
	case errors.Is(err, ledger.ErrUnavailable):
		return &delegation.Refusal{Code: asap.CodeDelegationStateUnavailable, Step: delegation.StepState, Link: delegation.NoLink, Detail: "the counters cannot be read now", Err: err}
	}
	return agentError(err)
}

// limitRefusal is a limit's refusal in the words of package delegation.
func limitRefusal(limit *ledger.LimitError) *delegation.Refusal {
	detail := "max_tasks is used up"
	switch {
	case limit.MayFree():
		detail = "what is left is held by tasks that still run"
	case limit.Unit == ledger.UnitCost:
		detail = "max_cost_usd does not cover this task"
	}
	r := delegation.Refuse(asap.Code(limit.Code()), limit.Link, detail)
	r.Shortage = &delegation.Shortage{
		Cost: limit.Unit == ledger.UnitCost, Limit: limit.Limit, Used: limit.Used, Held: limit.Held, Remaining: limit.Remaining, Needed: limit.Needed,
	}
	return r
}

// Recall implements agent.Memory.
func (t tasks) Recall(ctx context.Context, id asap.TaskID) (agent.Recalled, bool, error) {
	task, found, err := t.store.Task(ctx, id)
	if err != nil || !found || task.State == ledger.Released {
		return agent.Recalled{}, false, err
	}
	return agent.Recalled{Consumer: task.Consumer, Verified: task.Verified, Principal: task.Principal, Ended: task.State != ledger.Held,
		Answer: task.Answer, FailureCode: task.Failure, Receipt: agent.Receipt(task.Receipt)}, true, nil
}

// agentError gives the ledger's errors the names package agent has for them.
func agentError(err error) error {
	var limit *ledger.LimitError
	switch {
	case errors.As(err, &limit):
		return &agent.Refusal{Code: limit.Code(), Message: limit.Error()}
	case errors.Is(err, ledger.ErrConflict):
		return fmt.Errorf("%w: %w", agent.ErrConflict, err)
	case errors.Is(err, ledger.ErrUnavailable):
		return fmt.Errorf("%w: %w", agent.ErrUnavailable, err)
	case errors.Is(err, ledger.ErrOutcomeUnknown), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: %w", agent.ErrOutcomeUnknown, err)
	}
	return err
}
