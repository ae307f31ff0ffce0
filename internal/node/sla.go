package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/internal/httpapi"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/prober"
	"github.com/asap-protocol/asap-go/internal/registry"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
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
	if n.webhookSecret, err = secret(n.config.SLA.WebhookSecret); err != nil {
		return fmt.Errorf("%w: sla.webhook_secret: %w", ErrConfig, err)
	}
	n.watch, err = slawatch.Open(ctx, n.store, n.store, slawatch.Options{
		Policy: policy, ProbeInterval: time.Duration(n.config.SLA.ProbeInterval), Now: n.now, Log: n.log, CheckpointEvery: n.checkpoints.every,
		Shared: func() bool { return n.ledger.Shared() }, Leads: func() bool { return n.ledger.Leads() }, Led: n.leadWatch,
		CheckpointAgents: n.checkpoints.agents,
	})
	return err
}

// watchAgents begins to watch what the node hosts and what is registered, and
// ends the watch over what is neither any more.
func (n *Node) watchAgents(ctx context.Context, hosted []*agent.Agent) error {
	n.telling.Lock() // what is told of an agent while it is read here comes after
	defer n.telling.Unlock()
	stored, err := n.store.Agents(ctx)
	if err != nil {
		return fmt.Errorf("watch the registered agents: %w", err)
	}
	if n.hostedIDs == nil {
		n.hostedIDs = map[asap.AgentURN]bool{}
		for _, a := range hosted {
			n.hostedIDs[a.URN()] = true
		}
	}
	var ids []string
	for _, a := range hosted {
		ids = append(ids, string(a.URN()))
		n.watch.SetAgent(slawatch.Agent{ID: string(a.URN()), SLA: a.Manifest().SLA, TTL: ownTTL(a.Manifest().TTLSeconds)})
		// All hosted agents answer at one place, in the name of the first.
		n.prober.Set(prober.Target{Agent: string(a.URN()), URL: n.URL() + prober.HealthPath, Expect: string(hosted[0].URN()), Own: true})
	}
	for i := range stored {
		if !stored[i].Removed() {
			ids = append(ids, string(stored[i].ID))
		}
	}
	n.watch.KeepAgents(ids)
	n.tellAgents(stored)
	return nil
}

// leadWatch tells the watch again which agents there are: it begins to lead.
func (n *Node) leadWatch() {
	ctx, cancel := context.WithTimeout(context.Background(), leadWatchWithin)
	defer cancel()
	if err := n.watchAgents(ctx, n.hosted); err != nil {
		n.log.Error("some agents are not watched yet", "error", err)
	}
}

// leadWatchWithin bounds how long the agents of the registry may take to be read.
const leadWatchWithin = 10 * time.Second

// followAgents brings the watch up to date after a change of the registry.
func (n *Node) followAgents(agents []registry.Agent) {
	n.telling.Lock()
	defer n.telling.Unlock()
	n.tellAgents(agents)
}

// tellAgents tells the watch and the prober of agents in the registry. What the
// node hosts itself is as it is hosted. The caller holds telling.
func (n *Node) tellAgents(agents []registry.Agent) {
	for _, a := range agents {
		switch {
		case n.hostedIDs == nil || n.hostedIDs[a.ID]:
		case a.Removed():
			n.watch.RemoveAgent(string(a.ID))
			n.prober.Remove(string(a.ID))
		case a.Parse() != nil: // it was parsed before it was committed
		default:
			watched := slawatch.Agent{ID: string(a.ID)}
			target := prober.Target{Agent: string(a.ID), Expect: string(a.ID)}
			var err error
			if a.Manifest != nil {
				watched.SLA, watched.TTL = a.Manifest.SLA, ownTTL(a.Manifest.TTLSeconds)
				target.URL, err = prober.HealthURL(a.Manifest.Endpoints.ASAP)
			} else {
				target.URL, err = healthOf(a.Entry)
			}
			n.watch.SetAgent(watched)
			if err != nil {
				n.prober.Remove(string(a.ID)) // nobody knows where to ask
				continue
			}
			n.prober.Set(target)
		}
	}
}

// ownTTL is how long a manifest says that it holds, and with it what is known of
// the agent's health. What every manifest has that says nothing about it says
// nothing.
func ownTTL(seconds int64) time.Duration {
	if seconds <= asap.DefaultTTLSeconds {
		return 0
	}
	return time.Duration(min(seconds, int64(maxTTL/time.Second))) * time.Second
}

// maxTTL is how long a result of a probe says something at most.
const maxTTL = 24 * time.Hour

// healthOf is where an imported agent tells how it is.
func healthOf(e *registry.Entry) (string, error) {
	for _, at := range e.Endpoints {
		if u, err := prober.HealthURL(at.URL); err == nil {
			return u, nil
		}
	}
	return "", fmt.Errorf("agent %s has no http address", e.ID)
}

// openProber makes what asks agents whether they are up.
func (n *Node) openProber() {
	c := &n.config.SLA
	cfg := prober.Config{
		Interval: time.Duration(c.ProbeInterval), Timeout: time.Duration(c.ProbeTimeout), AllowPrivate: c.ProbePrivate || n.config.Loopback(), Canary: c.Canary, Now: n.now,
		Report: func(r prober.Result) {
			if r.Why != "" {
				n.log.Debug("probe", "agent", r.Agent, "state", r.State.String(), "why", r.Why)
			}
			n.watch.Probed(r.Agent, n.config.URN, r.State, r.At)
		},
	}
	if n.certs != nil { // it may demand certificates that the node itself does not have
		cfg.Own = handled{n}
	}
	n.prober = prober.New(cfg)
}

// handled carries requests to the node's own handler.
type handled struct{ node *Node }

// RoundTrip implements http.RoundTripper.
func (h handled) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &inMemory{header: http.Header{}, status: http.StatusOK}
	h.node.server.Handler.ServeHTTP(w, r)
	return &http.Response{Status: http.StatusText(w.status), StatusCode: w.status, Header: w.header, Body: io.NopCloser(&w.body), Request: r}, nil
}

// inMemory is an answer that is not sent anywhere.
type inMemory struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *inMemory) Header() http.Header         { return w.header }
func (w *inMemory) WriteHeader(status int)      { w.status = status }
func (w *inMemory) Write(b []byte) (int, error) { return w.body.Write(b) }

// planner plans maintenance: an entry of the audit log first, so that what is in
// force is there; then the watch is told.
type planner struct{ node *Node }

// actMaintenance is the type of the entries: the subject is the agent.
const actMaintenance = "sla.maintenance"

// PlanMaintenance implements httpapi.SLAPlanner.
func (p planner) PlanMaintenance(ctx context.Context, by asap.AgentURN, agentID string, x sla.Exclusion) (string, error) {
	x.Actor = cmp.Or(string(by), p.node.config.URN)
	return p.node.watch.Plan(ctx, agentID, x, func(x *sla.Exclusion) error {
		details := map[string]any{"act": "announced", "id": x.ID, "start": x.Start.String(), "end": x.End.String()}
		if x.Reason != "" {
			details["reason"] = x.Reason
		}
		if x.Retroactive {
			details["retroactive"] = true
		}
		return p.record(ctx, x.Actor, agentID, details)
	})
}

// WithdrawMaintenance implements httpapi.SLAPlanner.
func (p planner) WithdrawMaintenance(ctx context.Context, by asap.AgentURN, agentID, id string) error {
	return p.node.watch.Withdraw(ctx, agentID, id, func(m *slawatch.Maintenance) error {
		return p.record(ctx, cmp.Or(string(by), p.node.config.URN), agentID, map[string]any{"act": "withdrawn", "id": m.ID, "start": m.Start.String(), "end": m.End.String()})
	})
}

func (p planner) record(ctx context.Context, actor, agentID string, details map[string]any) error {
	text, err := json.Marshal(details, json.Deterministic(true))
	if err != nil {
		return err
	}
	_, err = p.node.ledger.Append(ctx, audit.Event{Type: actMaintenance, Actor: actor, Subject: agentID, Parties: []string{agentID}, Details: text})
	return err
}

// news lets WebSocket clients subscribe to what happens to breaches.
type news struct {
	watch *slawatch.Watch
	store Store
}

// Position implements agent.Positioned.
func (s news) Position() int64 { return s.watch.Position() }

// Subscribe implements agent.Notifications. A caller who has proven who it is
// hears of itself and of agents that have worked for it; the operator, and whoever
// may call without credentials, of all, as in v1.3.0.
func (s news) Subscribe(ctx context.Context, caller agent.Caller, params jsontext.Value, push func(context.Context, []byte) bool) (func(), error) {
	filter, err := slawatch.ParseFilter(params)
	if err != nil {
		return nil, &agent.Refusal{Code: string(asap.CodeInvalidParams), Message: err.Error()}
	}
	var allowed func(string) bool
	if caller.Verified {
		known := map[string]bool{string(caller.URN): true} // that they worked for it stays so
		allowed = func(id string) bool {
			if known[id] {
				return true
			}
			for _, err := range s.store.Rollups(ctx, metering.Filter{Agent: asap.AgentURN(id), Consumer: caller.URN}, 0) {
				known[id] = err == nil
				return err == nil
			}
			return false
		}
	}
	end, err := s.watch.Subscribe(ctx, filter, allowed, push)
	if errors.Is(err, slawatch.ErrEnded) {
		err = &agent.Refusal{Code: string(asap.CodeShuttingDown), Message: err.Error()}
	}
	return end, err
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
		if errors.Is(err, slawatch.ErrUnknownAgent) {
			continue // it is about to be known
		}
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
func watchOf(store Store, now func() time.Time) func(context.Context) (httpapi.SLAReader, error) {
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
