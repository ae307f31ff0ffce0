package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/httpapi"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/notify"
	"github.com/asap-protocol/asap-go/internal/registry"
)

// openFollower makes what brings the node up to date with the log, whoever of the
// nodes of a store has written to it.
func (n *Node) openFollower(ctx context.Context) (err error) {
	var failing atomic.Bool // said once
	n.limits = notify.NewWarnings(n.store)
	if n.limitsLogged, err = n.store.LastLimitWarning(ctx); err != nil {
		return fmt.Errorf("find the newest warning of a limit: %w", err)
	}
	n.follower, err = notify.Follow(ctx, n.store, notify.Options{
		Shared: func() bool { return n.ledger.Shared() },
		Apply: func(news ledger.News) {
			if failing.Swap(false) {
				n.log.Info("the log can be followed again", "entry", news.Head)
			}
			n.apply(news)
		},
		Failed: func(err error) {
			if !failing.Swap(true) {
				n.log.Error("the log cannot be followed, what others write is not known here", "error", err)
			}
		},
	})
	return err
}

// apply is handed what the log has gained, in order. It must not block.
func (n *Node) apply(news ledger.News) {
	n.sealer.Committed(int(news.Head - n.follower.Position()))
	if len(news.Agents) > 0 {
		n.agentsChanged(news.Agents)
	}
	for i := range news.Revocations {
		n.judge.learn(&news.Revocations[i])
	}
	n.watch.Follow(news)
	if news.Warnings {
		n.limits.Wake()
	}
}

// logLimits logs which limits of delegations come to their end, on one of the nodes.
func (n *Node) logLimits(ctx context.Context) {
	n.limits.Each(ctx, n.limitsLogged, func(w ledger.Warning) {
		if n.ledger.Leads() {
			n.log.Warn("a delegation's limit is coming to its end", "issuer", w.Issuer, "token", w.TokenID, "unit", w.Unit, "percent", w.Percent, "limit", w.Limit, "used", w.Used)
		}
	})
}

// limitNews lets WebSocket clients subscribe to limits of delegations that come to
// their end.
type limitNews struct{ feed *notify.Warnings }

// Position implements agent.Positioned.
func (s limitNews) Position() int64 { return s.feed.Position(context.Background()) }

// Subscribe implements agent.Notifications. A caller who has proven who it is hears
// of the tokens it has issued or holds; the operator, and whoever may call without
// credentials, of all.
func (s limitNews) Subscribe(ctx context.Context, caller agent.Caller, params jsontext.Value, push func(context.Context, []byte) bool) (func(), error) {
	end, err := s.feed.Subscribe(ctx, params, func(w *ledger.Warning) bool {
		return !caller.Verified || w.Issuer == caller.URN || w.Delegate == caller.URN
	}, push)
	switch {
	case errors.Is(err, notify.ErrParams):
		return nil, &agent.Refusal{Code: string(asap.CodeInvalidParams), Message: err.Error()}
	case errors.Is(err, notify.ErrEnded):
		return nil, &agent.Refusal{Code: string(asap.CodeShuttingDown), Message: err.Error()}
	case err != nil:
		return nil, fmt.Errorf("%w: %w", agent.ErrUnavailable, err)
	}
	return end, nil
}

// agentsChanged brings up to date what is in memory of the registry.
func (n *Node) agentsChanged(agents []registry.Agent) {
	defer n.forgetKeys()
	showAgents(n.registry, agents)
	n.followAgents(agents)
}

// recovered is told of tasks whose node died.
func (n *Node) recovered(tasks int) {
	n.log.Warn("tasks of a node that is gone were charged their ceiling", "tasks", tasks)
}

// learn makes a revocation count here.
func (d *delegations) learn(r *ledger.Revocation) {
	d.revoked.Add(r.Issuer, r.TokenID)
	if strings.HasPrefix(r.TokenID, httpapi.KeyRevocationPrefix) {
		d.keys.forget()
	}
}

// freshWithin bounds how long a check of a revocation waits for the store.
const freshWithin = time.Second

// isRevoked has the form of delegation.Policy.Revoked. What is known of
// revocations is not older than notify.StaleAfter, or nobody can tell.
func (d *delegations) isRevoked(issuer asap.AgentURN, tokenID string) (bool, error) {
	revoked, err := d.revoked.Revoked(issuer, tokenID)
	if revoked || err != nil || d.follower.Age() <= notify.StaleAfter {
		return revoked, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), freshWithin)
	defer cancel()
	if err := d.follower.Fresh(ctx); err != nil {
		return false, fmt.Errorf("revocations: %w", err)
	}
	return d.revoked.Revoked(issuer, tokenID)
}

// awaitAgain is the least time between two looks at a task that runs elsewhere.
const awaitAgain = 20 * time.Millisecond

// Await implements agent.Waiter: the log moves when a task ends.
func (t tasks) Await(ctx context.Context, id asap.TaskID) (agent.Admitted, error) {
	for {
		moved := t.follower.Moved()
		known, found, err := t.Recall(ctx, id)
		if err == nil && found && known.Ended {
			return agent.Admitted{Replay: true, Ended: true, TaskID: id, Answer: known.Answer, FailureCode: known.FailureCode, Receipt: known.Receipt}, nil
		}
		pause := time.NewTimer(awaitAgain)
		select {
		case <-ctx.Done():
			pause.Stop()
			return agent.Admitted{}, context.Cause(ctx)
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return agent.Admitted{}, context.Cause(ctx)
		case <-moved:
		}
	}
}
