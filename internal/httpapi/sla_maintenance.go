package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// SLAPlanner plans maintenance of agents. When a method returns nil, its effect
// is durable, in the audit log and in force. Errors are slawatch.ErrUnknownAgent,
// slawatch.ErrUnknownMaintenance, and those that wrap sla.ErrRefused and tell what
// the rules have against it. Both are safe for concurrent use.
type SLAPlanner interface {
	// PlanMaintenance announces maintenance now. x has Start, End, Reason and
	// Retroactive; the other members are the planner's. by is the agent itself, or
	// empty for the operator.
	PlanMaintenance(ctx context.Context, by asap.AgentURN, agentID string, x sla.Exclusion) (id string, err error)
	// WithdrawMaintenance takes back what of it has not begun.
	WithdrawMaintenance(ctx context.Context, by asap.AgentURN, agentID, id string) error
}

// maintenanceRequest is the body of POST /agents/{id}/sla/maintenance.
type maintenanceRequest struct {
	Start       string `json:"start" format:"date-time" minLength:"1" doc:"RFC 3339, at least an hour from now unless retroactive"`
	End         string `json:"end" format:"date-time" minLength:"1" doc:"RFC 3339; what lasts longer than 4 hours in 30 days counts as service"`
	Reason      string `json:"reason,omitempty" doc:"for whoever reads it later"`
	Retroactive bool   `json:"retroactive,omitempty" doc:"operator only: it may begin sooner, or have begun; it is marked so for ever"`
}

type maintenancePage struct {
	Data  []slawatch.Maintenance `json:"data"`
	Count int                    `json:"count"`
}

func (a *API) agentMaintenance(c *call) error {
	reader, id, err := a.agentSLA(c)
	if err != nil {
		return err
	}
	list, err := reader.Maintenance(c.ctx(), id)
	if err != nil {
		return unknownAgent(err)
	}
	return writeJSON(c.w, http.StatusOK, maintenancePage{Data: append([]slawatch.Maintenance{}, list...), Count: len(list)})
}

// plans says whose maintenance the caller may plan: the operator anybody's, an
// agent its own. Of another nothing is read or looked for.
func (a *API) plans(c *call) (id string, by asap.AgentURN, err error) {
	urn, err := agentID(c)
	switch {
	case err != nil:
		return "", "", err
	case c.caller.Role == Operator:
		return string(urn), "", nil
	case c.caller.Agent != urn:
		return "", "", refusal(asap.CodeForbidden)
	}
	return string(urn), urn, nil
}

func (a *API) planMaintenance(c *call) error {
	id, by, err := a.plans(c)
	if err != nil {
		return err
	}
	v, err := a.body(c)
	if err != nil {
		return err
	}
	var in maintenanceRequest
	if err := readForm(v, &in, "planned maintenance"); err != nil {
		return err
	}
	x := sla.Exclusion{Reason: in.Reason, Retroactive: in.Retroactive}
	for _, p := range []struct {
		name, text string
		to         *sla.Instant
	}{{"start", in.Start, &x.Start}, {"end", in.End, &x.End}} {
		t, err := asap.ParseTimestamp(p.text)
		if err != nil || asap.Zoneless(t) {
			return refuse(asap.CodeValidation, p.name, "must be RFC 3339 with a zone, such as 2026-02-20T12:00:00Z")
		}
		*p.to = sla.InstantOf(t)
	}
	switch {
	case len(in.Reason) > maxReason || !utf8.ValidString(in.Reason):
		return refuse(asap.CodeValidation, "reason", "must have at most %d bytes", maxReason)
	case in.Retroactive && c.caller.Role != Operator:
		return problemOf(asap.CodeForbidden, "Only the operator may plan maintenance retroactively.")
	case a.cfg.SLAPlanner == nil:
		return ledger.ErrUnavailable
	}
	made, err := a.cfg.SLAPlanner.PlanMaintenance(c.ctx(), by, id, x)
	if err != nil {
		return refusedByRules(err)
	}
	reader, err := a.slaReader(c)
	if err != nil {
		return err
	}
	list, err := reader.Maintenance(c.ctx(), id)
	if err != nil {
		return unknownAgent(err)
	}
	for i := range list {
		if list[i].ID == made {
			return writeJSON(c.w, http.StatusCreated, &list[i])
		}
	}
	return errors.New("planned maintenance is not there")
}

func (a *API) withdrawMaintenance(c *call) error {
	id, by, err := a.plans(c)
	if err != nil {
		return err
	}
	if a.cfg.SLAPlanner == nil {
		return ledger.ErrUnavailable
	}
	if err := a.cfg.SLAPlanner.WithdrawMaintenance(c.ctx(), by, id, c.r.PathValue("maintenance_id")); err != nil {
		return refusedByRules(err)
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// refusedByRules gives what a planner says its code.
func refusedByRules(err error) error {
	switch {
	case errors.Is(err, slawatch.ErrUnknownMaintenance):
		return refusal(asap.CodeNotFound)
	case errors.Is(err, slawatch.ErrEnded):
		return ledger.ErrUnavailable
	case errors.Is(err, sla.ErrRefused):
		return problemOf(asap.CodeValidation, strings.TrimPrefix(err.Error(), sla.ErrRefused.Error()+": "))
	}
	return unknownAgent(err)
}

var maintenancePathParam = parameter{name: "maintenance_id", in: "path", kind: "string", required: true, most: 100, doc: "as the list has it"}

// maintenanceRoutes are the rows of the table about planned maintenance.
func maintenanceRoutes() []route {
	const path = "/agents/{id}/sla/maintenance"
	agent := []parameter{agentPathParam}
	return []route{
		{method: "GET", path: path, id: "agentMaintenance", access: agents, handle: (*API).agentMaintenance, summary: "Maintenance of an agent that is planned, and that was in the last 60 days",
			params: agent, answers: map[int]any{200: maintenancePage{}}},
		{method: "POST", path: path, id: "planMaintenance", access: agents, handle: (*API).planMaintenance, summary: "Announce maintenance, which then does not count as service",
			params: agent, body: maintenanceRequest{}, answers: map[int]any{201: slawatch.Maintenance{}}},
		{method: "DELETE", path: path + "/{maintenance_id}", id: "withdrawMaintenance", access: agents, handle: (*API).withdrawMaintenance, summary: "Take maintenance back, as far as it has not begun",
			params: []parameter{agentPathParam, maintenancePathParam}, answers: map[int]any{204: nil}},
	}
}
