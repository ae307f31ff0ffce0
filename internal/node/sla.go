package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/httpapi"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
	"github.com/asap-protocol/asap-go/internal/sqlite"
)

// policy is how strictly the configuration judges promises. What it leaves out is
// as the rules have it.
func (c *SLAConfig) policy() (sla.Policy, error) {
	p := sla.DefaultPolicy()
	if names := words(c.Windows); len(names) > 0 {
		p.Windows = nil
		for _, name := range names {
			w, err := sla.ParseWindow(name)
			if err != nil {
				return p, fmt.Errorf("%w: sla.windows: %w", ErrConfig, err)
			}
			p.Windows = append(p.Windows, w)
		}
	}
	p.MinTasks = c.MinTasks
	p.For, p.ResolveAfter = milliseconds(c.For), milliseconds(c.ResolveAfter)
	if err := p.Validate(); err != nil {
		return p, fmt.Errorf("%w: sla: %w", ErrConfig, err)
	}
	return p, nil
}

func milliseconds(d Duration) sla.Instant { return sla.Instant(time.Duration(d).Milliseconds()) }

// openWatch restores what is known about service levels.
func (n *Node) openWatch(ctx context.Context) error {
	policy, err := n.config.SLA.policy()
	if err != nil {
		return err
	}
	n.watch, err = slawatch.Open(ctx, n.store, n.store, slawatch.Options{
		Policy: policy, ProbeInterval: time.Duration(n.config.SLA.ProbeInterval), Now: n.now, Log: n.log,
	})
	return err
}

// watchAgents begins to watch what the node hosts and what is registered, and
// ends the watch over what is neither any more.
func (n *Node) watchAgents(ctx context.Context, hosted []*agent.Agent) error {
	stored, err := n.store.Agents(ctx)
	if err != nil {
		return fmt.Errorf("watch the registered agents: %w", err)
	}
	n.hostedIDs = map[asap.AgentURN]bool{}
	var ids []string
	for _, a := range hosted {
		n.hostedIDs[a.URN()] = true
		ids = append(ids, string(a.URN()))
		n.watch.SetAgent(slawatch.Agent{ID: string(a.URN()), SLA: a.Manifest().SLA})
	}
	for i := range stored {
		if !stored[i].Removed() {
			ids = append(ids, string(stored[i].ID))
		}
	}
	n.watch.KeepAgents(ids)
	n.followAgents(stored)
	return nil
}

// followAgents brings the watch up to date after a change of the registry. What
// the node hosts itself is as it is hosted.
func (n *Node) followAgents(agents []registry.Agent) {
	for _, a := range agents {
		switch {
		case n.hostedIDs == nil || n.hostedIDs[a.ID]:
		case a.Removed():
			n.watch.RemoveAgent(string(a.ID))
		case a.Parse() != nil: // it was parsed before it was committed
		default:
			watched := slawatch.Agent{ID: string(a.ID)}
			if a.Manifest != nil {
				watched.SLA = a.Manifest.SLA
			}
			n.watch.SetAgent(watched)
		}
	}
}

// figuresWindow is what measured figures in the registry are of.
const figuresWindow = sla.LastMonth

// measure puts what was measured into the index of the registry.
func measure(ctx context.Context, watch *slawatch.Watch, index *registry.Index) error {
	ids, err := watch.Agents(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		status, err := watch.Status(ctx, id, figuresWindow)
		if err != nil {
			return err
		}
		f := registry.Figures{Score: status.SLAScore, Window: figuresWindow.String(), Start: status.PeriodStart.Time(), End: status.PeriodEnd.Time(),
			LatencyP95MS: status.Metrics.LatencyP95MS}
		if status.DataStatus == sla.DataOK {
			up, down, err := watch.Measured(ctx, id, figuresWindow)
			if err != nil {
				return err
			}
			f.Availability = registry.MeasuredShare(int64(up), int64(up+down))
		}
		f.ErrorRate = registry.MeasuredShare(status.Metrics.TasksFailed, status.Metrics.TasksFailed+status.Metrics.TasksCompleted)
		index.Measure(asap.AgentURN(id), f)
	}
	return nil
}

// measureEvery is how old the measured figures in the registry get.
const measureEvery = 15 * time.Second

// keepMeasuring keeps the measured figures in the registry up to date.
func (n *Node) keepMeasuring(ctx context.Context) error {
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	for {
		if err := measure(ctx, n.watch, n.registry); err != nil && ctx.Err() == nil {
			n.log.Error("measured figures in the registry are old", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// watchOf restores what a store knows about service levels, for one who only
// reads it, when that is asked for the first time.
func watchOf(store *sqlite.Store, now func() time.Time) func(context.Context) (httpapi.SLAReader, error) {
	var mu sync.Mutex // guards watch
	var watch *slawatch.Watch
	return func(ctx context.Context) (httpapi.SLAReader, error) {
		mu.Lock()
		defer mu.Unlock()
		if watch == nil {
			restored, err := slawatch.Open(ctx, store, store, slawatch.Options{Now: now})
			if err != nil {
				return nil, err
			}
			watch = restored
		}
		return watch, nil
	}
}
