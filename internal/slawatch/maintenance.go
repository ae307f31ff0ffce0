package slawatch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/asap-protocol/asap-go/internal/sla"
)

// Maintenance is planned maintenance of an agent as it is shown.
type Maintenance struct {
	ID          string      `json:"id"`
	Agent       string      `json:"agent"`
	AgentID     string      `json:"agent_id"`
	Start       sla.Instant `json:"start"`
	End         sla.Instant `json:"end"`
	AnnouncedAt sla.Instant `json:"announced_at" doc:"when the node was told"`
	Actor       string      `json:"actor" doc:"who told it: the agent, or the node's operator"`
	Reason      string      `json:"reason"`
	Retroactive bool        `json:"retroactive" doc:"the operator announced it without the notice that is due"`
	Status      string      `json:"status" enum:"planned,running,over"`
	// Excluded is less than the whole where the cap is reached.
	Excluded sla.Seconds `json:"excluded_seconds" doc:"how much of it does not count as service; the rest is beyond what may be excluded in 30 days"`
}

// Maintenance returns what is planned for an agent, and what was in the last 60
// days, by its start. The error is ErrUnknownAgent for one that was never watched.
func (w *Watch) Maintenance(_ context.Context, agentID string) ([]Maintenance, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.catchUp(); err != nil {
		return nil, err
	}
	list, excluded, ok := w.engine.Maintenance(agentID)
	if !ok {
		return nil, ErrUnknownAgent
	}
	shown := make([]Maintenance, 0, len(list))
	for i := range list {
		x := &list[i]
		m := Maintenance{ID: x.ID, Agent: agentID, AgentID: agentID, Start: x.Start, End: x.End, AnnouncedAt: x.AnnouncedAt, Actor: x.Actor,
			Reason: x.Reason, Retroactive: x.Retroactive, Status: "planned", Excluded: sla.Seconds(excluded(x.Start, x.End))}
		switch {
		case x.End <= w.present:
			m.Status = "over"
		case x.Start <= w.present:
			m.Status = "running"
		}
		shown = append(shown, m)
	}
	return shown, nil
}

// Bounds of what may be planned.
const (
	longestPlan  = 30 * day
	farthestPlan = 366 * day
	mostPlans    = 500
)

// Plan takes planned maintenance that is announced now, and returns its id when it
// is durable and in force. record, which is called when the rules have nothing
// against it, has it recorded; if it fails, nothing happens. Errors: ErrUnknownAgent,
// and those that wrap sla.ErrRefused.
func (w *Watch) Plan(ctx context.Context, agentID string, x sla.Exclusion, record func(*sla.Exclusion) error) (id string, err error) {
	w.mu.Lock()
	_, known := w.known[agentID]
	x.AnnouncedAt = max(w.present, sla.InstantOf(w.opts.Now()))
	w.mu.Unlock()
	sum := sha256.Sum256(fmt.Appendf(nil, "asap-sla/1 maintenance\n%s\n%d\n%d\n%d", agentID, x.Start, x.End, x.AnnouncedAt))
	x.ID = "maintenance_" + hex.EncodeToString(sum[:16])
	x.Retroactive = x.Retroactive && x.Start-x.AnnouncedAt < w.opts.Policy.Notice
	if !known {
		return "", ErrUnknownAgent
	}
	list, err := w.Maintenance(ctx, agentID)
	switch {
	case err != nil:
		return "", err
	case x.End-x.Start > longestPlan || x.Start > x.AnnouncedAt+farthestPlan:
		return "", fmt.Errorf("%w: maintenance must last at most 30 days and start within a year", sla.ErrRefused)
	case len(list) >= mostPlans:
		return "", fmt.Errorf("%w: no more than %d maintenances in 60 days", sla.ErrRefused, mostPlans)
	}
	if err := w.opts.Policy.Refuses(&x); err != nil {
		return "", err
	}
	if err := record(&x); err != nil {
		return "", err
	}
	return x.ID, w.ask(ctx, Input{Kind: kindExclude, Agent: agentID, Exclusion: &x})
}

// Withdraw takes planned maintenance back: what of it has not begun counts as
// service. record is as for Plan. Errors: ErrUnknownAgent, ErrUnknownMaintenance,
// and those that wrap sla.ErrRefused, for what is over.
func (w *Watch) Withdraw(ctx context.Context, agentID, id string, record func(*Maintenance) error) error {
	list, err := w.Maintenance(ctx, agentID)
	if err != nil {
		return err
	}
	for i := range list {
		switch {
		case list[i].ID != id:
		case list[i].Status == "over":
			return fmt.Errorf("%w: the maintenance is over", sla.ErrRefused)
		default:
			if err := record(&list[i]); err != nil {
				return err
			}
			return w.ask(ctx, Input{Kind: kindInclude, Agent: agentID, Exclusion: &sla.Exclusion{ID: id}})
		}
	}
	return ErrUnknownMaintenance
}

// ErrUnknownMaintenance reports an id of no maintenance of the agent.
var ErrUnknownMaintenance = errors.New("there is no such maintenance")

// ask tells the engine something and waits for what the rules say to it. When ctx
// ends first it may still happen.
func (w *Watch) ask(ctx context.Context, in Input) error {
	told := make(chan error, 1)
	in.told = told
	w.mu.Lock()
	w.tell(in)
	w.mu.Unlock()
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.feed.ctx.Done():
		return ErrEnded
	}
}
