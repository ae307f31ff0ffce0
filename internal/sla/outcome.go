package sla

import (
	"errors"
	"fmt"
	"slices"
)

// ErrRefused is wrapped by the errors about events that cannot be counted: they
// leave the engine as it was.
var ErrRefused = errors.New("refused")

func refusedf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}

// The ways a task ends.
const (
	OutcomeCompleted = "completed"
	OutcomeFailed    = "failed"
	OutcomeTimeout   = "timeout"
	OutcomeCancelled = "cancelled"
	OutcomeRejected  = "rejected"
)

// An Outcome is the end of one task.
type Outcome struct {
	Agent string
	// TaskID makes a task count once; the first end of a task wins. An outcome
	// without one always counts.
	TaskID string
	// Once tells that the task surely is not told of again: it need not be
	// remembered.
	Once bool
	// At is when the task ended: for a timeout, the caller's deadline.
	At      Instant
	Outcome string
	// LatencyMS is the time the agent took; see AgentTime. Nil leaves the task out
	// of the latencies.
	LatencyMS *int64
	// Cause is why a task failed; empty means by the agent's fault.
	Cause string
	// ByAgent tells that the agent cancelled the task, not its caller.
	ByAgent bool
	// ElapsedMS is how long a caller waited before it cancelled.
	ElapsedMS int64
	// Delegation is the id of the token that the task ran under; empty for none.
	Delegation string
}

// AgentTime is how long an agent took for a task: from submitted to ended, less
// the time that it waited for input.
func AgentTime(submitted, ended, waitedForInput Instant) (latencyMS int64) {
	return int64(ended - submitted - waitedForInput)
}

// Why tasks fail: by the agent's fault or by the caller's.
var (
	agentCauses  = []string{"", "agent_error", "internal", "upstream", "tool", "malformed_result", "overload"}
	callerCauses = []string{"invalid_input", "unauthorized", "unauthenticated", "forbidden", "delegation", "delegation_expired", "delegation_limit", "insufficient_funds"}
)

// Counts are how tasks ended, and what else is counted beside them.
type Counts struct {
	Completed int64 `json:"completed"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
	Excluded  int64 `json:"excluded"`
	Rejected  int64 `json:"rejected"`
	// Slow are latencies above the promised one, Slow2 those at or above twice it.
	Slow  int64 `json:"slow"`
	Slow2 int64 `json:"slow2"`
	// Timed are completed tasks whose latency is known.
	Timed int64 `json:"timed"`
	// Late are those that came after their bucket had closed.
	Late int64 `json:"late"`
	// Probes are results that said up or down.
	Probes int64 `json:"probes"`
}

func (c *Counts) add(o Counts, sign int64) {
	c.Completed += sign * o.Completed
	c.Failed += sign * o.Failed
	c.Cancelled += sign * o.Cancelled
	c.Excluded += sign * o.Excluded
	c.Rejected += sign * o.Rejected
	c.Slow += sign * o.Slow
	c.Slow2 += sign * o.Slow2
	c.Timed += sign * o.Timed
	c.Late += sign * o.Late
	c.Probes += sign * o.Probes
}

// judged is how many tasks the error rate is taken over.
func (c *Counts) judged() int64 { return c.Completed + c.Failed }

// maxLatencyMS is the longest latency that is told apart.
const maxLatencyMS = 24 * hour

// check refuses an outcome that cannot be meant.
func (o *Outcome) check() error {
	switch {
	case !slices.Contains([]string{OutcomeCompleted, OutcomeFailed, OutcomeTimeout, OutcomeCancelled, OutcomeRejected}, o.Outcome):
		return refusedf("outcome must be one of: completed, failed, timeout, cancelled, rejected")
	case o.LatencyMS != nil && *o.LatencyMS < 0:
		return refusedf("latency_ms must not be negative")
	case o.ElapsedMS < 0:
		return refusedf("elapsed_ms must not be negative")
	case o.Outcome == OutcomeFailed && !slices.Contains(agentCauses, o.Cause) && !slices.Contains(callerCauses, o.Cause):
		return refusedf("unknown cause %.40q", o.Cause)
	}
	return nil
}

// counts says what o counts as under a promise. latency is nil unless the task is
// in the population of latencies.
func (o *Outcome) counts(p *promise, excluded bool) (c Counts, latency *int64) {
	switch {
	case excluded:
		c.Excluded = 1
	case o.Outcome == OutcomeCompleted:
		c.Completed = 1
		if o.LatencyMS != nil {
			ms := min(*o.LatencyMS, int64(maxLatencyMS))
			latency = &ms
			c.Timed = 1
			c.Slow, c.Slow2 = p.slow(ms)
		}
	case o.Outcome == OutcomeTimeout:
		c.Failed = 1
	case o.Outcome == OutcomeFailed:
		if slices.Contains(callerCauses, o.Cause) {
			c.Excluded = 1
		} else {
			c.Failed = 1
		}
	case o.Outcome == OutcomeCancelled:
		// Whoever gives up only after the promised time was failed by the agent:
		// otherwise slow agents would escape by being abandoned.
		if o.ByAgent || (p.latencyMS != nil && o.ElapsedMS > *p.latencyMS) {
			c.Failed = 1
		} else {
			c.Cancelled = 1
		}
	default:
		c.Rejected = 1
	}
	return c, latency
}
