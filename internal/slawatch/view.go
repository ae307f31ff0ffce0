package slawatch

import (
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
)

// BreachView is a breach as it is shown, with the members of v1.3.0's SLABreach
// and more.
type BreachView struct {
	ID         string        `json:"id"`
	Agent      string        `json:"agent"`
	AgentID    string        `json:"agent_id"`
	BreachType sla.Objective `json:"breach_type"`
	Objective  sla.Objective `json:"objective" doc:"the same as breach_type"`
	Window     string        `json:"window" doc:"1h, 24h, 7d or 30d"`
	Threshold  string        `json:"threshold" doc:"such as 99.5% or 500ms"`
	Actual     string        `json:"actual" doc:"the last value known"`
	// ActualOpen and ActualWorst are the values when it opened, and at worst.
	ActualOpen  string       `json:"actual_open"`
	ActualWorst string       `json:"actual_worst"`
	Severity    sla.Severity `json:"severity" enum:"warning,critical" doc:"the present one; of a breach that is over, the highest it reached"`
	SeverityMax sla.Severity `json:"severity_max" enum:"warning,critical"`
	StartedAt   sla.Instant  `json:"started_at" doc:"when the promise began to be broken"`
	DetectedAt  sla.Instant  `json:"detected_at" doc:"when that was known"`
	ResolvedAt  *sla.Instant `json:"resolved_at" doc:"when it was kept again; null while it is not"`
	Duration    sla.Seconds  `json:"duration_seconds"`
	Status      string       `json:"status" enum:"firing,resolving,resolved"`
	CloseReason *string      `json:"close_reason" doc:"recovered, sla_changed, agent_removed, expired; null while it is open"`
	Flaps       int          `json:"flaps" doc:"how often it came back"`
	Flapping    bool         `json:"flapping"`
	Stale       bool         `json:"stale" doc:"nothing is known of the agent at present"`
	N           int64        `json:"n" doc:"tasks it was judged by when it opened"`
	Bad         int64        `json:"bad" doc:"those of them that broke the promise"`
	Wilson      *float64     `json:"wilson_percent" doc:"lower 95 % bound of the share of those"`
	SLAVersion  int64        `json:"sla_version"`
	IncidentID  string       `json:"incident_id" doc:"the same for breaches of one agent that overlap"`
}

// viewOf shows a breach at an instant.
func viewOf(b *ledger.Breach, now sla.Instant) BreachView {
	v := BreachView{
		ID: b.ID, Agent: b.Agent, AgentID: b.Agent, BreachType: b.Objective, Objective: b.Objective, Window: b.Window.String(),
		Threshold: b.Threshold, Actual: b.ActualLast, ActualOpen: b.ActualOpen, ActualWorst: b.ActualWorst,
		Severity: b.Severity, SeverityMax: b.SeverityMax, StartedAt: b.StartedAt, DetectedAt: b.DetectedAt, ResolvedAt: b.ResolvedAt,
		Duration: b.Duration(now), Status: "firing", Flaps: b.Flaps, Flapping: b.Flapping, N: b.N, Bad: b.Bad, Wilson: b.WilsonPercent,
		SLAVersion: b.SLAVersion, IncidentID: b.Incident,
	}
	if b.ResolvedAt != nil {
		reason := b.CloseReason
		v.Status, v.CloseReason = "resolved", &reason
	}
	return v
}

// Event is one thing that happened to a breach, as hooks and subscribers are told.
type Event struct {
	// Seq is the position of its audit entry: what a subscriber resumes from.
	Seq    int64         `json:"seq"`
	Kind   sla.EventKind `json:"event"` // firing, escalated, resolved
	At     sla.Instant   `json:"at"`
	Status string        `json:"status"`
	// StartedAt and Duration are those of the breach.
	StartedAt sla.Instant `json:"started_at"`
	Duration  sla.Seconds `json:"duration_seconds"`
	Window    string      `json:"window"`
	Incident  string      `json:"incident_id"`
	Breach    BreachView  `json:"breach"`
}

func eventOf(c *ledger.BreachChange) Event {
	v := viewOf(&c.Breach, c.At)
	return Event{Seq: c.Seq, Kind: c.Kind, At: c.At, Status: v.Status, StartedAt: v.StartedAt, Duration: v.Duration, Window: v.Window, Incident: v.IncidentID, Breach: v}
}
