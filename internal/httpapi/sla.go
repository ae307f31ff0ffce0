package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// SLAReader tells how agents keep what they promise; *slawatch.Watch is one. Its
// methods are safe for concurrent use. Of an agent that was never watched they
// say slawatch.ErrUnknownAgent.
type SLAReader interface {
	// Agents are those that are watched, ordered.
	Agents(ctx context.Context) ([]string, error)
	// Status is of the window that ends now.
	Status(ctx context.Context, agentID string, w sla.Window) (*sla.Status, error)
	// History is what is known of the hours or days that overlap [start, end),
	// oldest first; 0 is open.
	History(ctx context.Context, agentID, granularity string, start, end sla.Instant) ([]slawatch.Period, error)
	// Outages are when the agent was down, newest first.
	Outages(ctx context.Context, agentID string, start, end sla.Instant) ([]slawatch.Outage, error)
	// Maintenance is what is planned for an agent, and what was lately.
	Maintenance(ctx context.Context, agentID string) ([]slawatch.Maintenance, error)
	// Breaches are the selected ones, and how many there are without limit.
	Breaches(ctx context.Context, f slawatch.BreachFilter) ([]slawatch.BreachView, int, error)
}

// slaReader is what the node measures; without it nothing is watched.
func (a *API) slaReader(c *call) (SLAReader, error) {
	if a.cfg.SLA == nil {
		return noSLA{}, nil
	}
	return a.cfg.SLA(c.ctx())
}

// noSLA knows no agent.
type noSLA struct{}

func (noSLA) Agents(context.Context) ([]string, error) { return nil, nil }
func (noSLA) Status(context.Context, string, sla.Window) (*sla.Status, error) {
	return nil, slawatch.ErrUnknownAgent
}
func (noSLA) History(context.Context, string, string, sla.Instant, sla.Instant) ([]slawatch.Period, error) {
	return nil, slawatch.ErrUnknownAgent
}
func (noSLA) Outages(context.Context, string, sla.Instant, sla.Instant) ([]slawatch.Outage, error) {
	return nil, slawatch.ErrUnknownAgent
}
func (noSLA) Maintenance(context.Context, string) ([]slawatch.Maintenance, error) {
	return nil, slawatch.ErrUnknownAgent
}
func (noSLA) Breaches(context.Context, slawatch.BreachFilter) ([]slawatch.BreachView, int, error) {
	return nil, 0, nil
}

// visible returns which agents a caller may hear of: the operator of all, an agent
// of itself and of those that have worked for it.
func (a *API) visible(c *call) (func(agentID string) bool, error) {
	if c.caller.Role == Operator {
		return func(string) bool { return true }, nil
	}
	mine := map[string]bool{string(c.caller.Agent): true}
	for row, err := range a.cfg.Usage.Rollups(c.ctx(), metering.Filter{Consumer: c.caller.Agent}, metering.ByAgent) {
		if err != nil {
			return nil, err
		}
		mine[string(row.Agent)] = true
	}
	return func(id string) bool { return mine[id] }, nil
}

// agentSLA finds the reader and the agent of a route about one. What one may not
// see is not there.
func (a *API) agentSLA(c *call) (SLAReader, string, error) {
	reader, err := a.slaReader(c)
	if err != nil {
		return nil, "", err
	}
	sees, err := a.visible(c)
	if err != nil {
		return nil, "", err
	}
	id := c.r.PathValue("id")
	if !sees(id) {
		return nil, "", refusal(asap.CodeNotFound)
	}
	return reader, id, nil
}

// unknownAgent gives the error of a reader its code.
func unknownAgent(err error) error {
	if errors.Is(err, slawatch.ErrUnknownAgent) {
		return refusal(asap.CodeNotFound)
	}
	return err
}

// window reads the parameter window.
func (c *call) window() (sla.Window, error) {
	text := "24h"
	if all, given := c.params.values["window"]; given {
		text = all[len(all)-1]
	}
	w, err := sla.ParseWindow(text)
	if err != nil {
		return 0, problemOf(asap.CodeInvalidWindow, err.Error())
	}
	return w, nil
}

// span reads start and end as the rules count; 0 is open.
func (c *call) span() (start, end sla.Instant, err error) {
	for _, p := range []struct {
		name string
		to   *sla.Instant
	}{{"start", &start}, {"end", &end}} {
		t, err := c.params.instant(p.name)
		if err != nil {
			return 0, 0, err
		}
		if !t.IsZero() {
			*p.to = sla.InstantOf(t)
		}
	}
	return start, end, nil
}

func (a *API) agentStatus(c *call) error {
	reader, id, err := a.agentSLA(c)
	if err != nil {
		return err
	}
	w, err := c.window()
	if err != nil {
		return err
	}
	status, err := reader.Status(c.ctx(), id, w)
	if err != nil {
		return unknownAgent(err)
	}
	return writeJSON(c.w, http.StatusOK, status)
}

type historyPage struct {
	Data        []slawatch.Period `json:"data"`
	Count       int               `json:"count"`
	Total       int               `json:"total"`
	Offset      int               `json:"offset"`
	Limit       int               `json:"limit"`
	Granularity string            `json:"granularity" enum:"hour,day"`
	Next        *string           `json:"next_cursor"`
}

func (a *API) agentHistory(c *call) error {
	reader, id, err := a.agentSLA(c)
	if err != nil {
		return err
	}
	return a.history(c, func(granularity string, start, end sla.Instant) ([]slawatch.Period, error) {
		list, err := reader.History(c.ctx(), id, granularity, start, end)
		return list, unknownAgent(err)
	})
}

// history answers with a page of what list returns.
func (a *API) history(c *call, list func(granularity string, start, end sla.Instant) ([]slawatch.Period, error)) error {
	granularity, err := c.params.text("granularity")
	if err != nil {
		return err
	}
	switch granularity {
	case "":
		granularity = slawatch.Hourly
	case slawatch.Hourly, slawatch.Daily:
	default:
		return refuse(asap.CodeInvalidFilter, "granularity", "must be hour or day")
	}
	start, end, err := c.span()
	if err != nil {
		return err
	}
	limit, err := c.params.integer("limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	skip, err := c.params.integer("offset", 0, 0, 1<<31-1)
	if err != nil {
		return err
	}
	var after place
	resumed, err := c.params.cursor("sla-history", &after)
	if err != nil {
		return err
	}
	periods, err := list(granularity, start, end)
	if err != nil {
		return err
	}
	page := historyPage{Data: []slawatch.Period{}, Total: len(periods), Offset: skip, Limit: limit, Granularity: granularity}
	if resumed {
		periods = slices.DeleteFunc(periods, func(p slawatch.Period) bool {
			return p.PeriodStart < after.Start || p.PeriodStart == after.Start && p.AgentID <= after.Agent
		})
	}
	periods = periods[min(skip, len(periods)):]
	if len(periods) > limit {
		last := periods[limit-1]
		next, err := encodeCursor("sla-history", place{last.PeriodStart, last.AgentID})
		if err != nil {
			return err
		}
		page.Next, periods = &next, periods[:limit]
	}
	page.Data = append(page.Data, periods...)
	page.Count = len(page.Data)
	return writeJSON(c.w, http.StatusOK, page)
}

// place is where a page of a history ended.
type place struct {
	Start sla.Instant `json:"start"`
	Agent string      `json:"agent"`
}

type outagePage struct {
	Data  []slawatch.Outage `json:"data"`
	Count int               `json:"count"`
	Total int               `json:"total"`
}

func (a *API) agentOutages(c *call) error {
	reader, id, err := a.agentSLA(c)
	if err != nil {
		return err
	}
	start, end, err := c.span()
	if err != nil {
		return err
	}
	limit, err := c.params.integer("limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	list, err := reader.Outages(c.ctx(), id, start, end)
	if err != nil {
		return unknownAgent(err)
	}
	page := outagePage{Total: len(list), Data: append([]slawatch.Outage{}, list[:min(limit, len(list))]...)}
	page.Count = len(page.Data)
	return writeJSON(c.w, http.StatusOK, page)
}

type breachPage struct {
	Data  []slawatch.BreachView `json:"data"`
	Count int                   `json:"count"`
	Total int                   `json:"total"`
	Next  *string               `json:"next_cursor"`
}

func (a *API) agentBreaches(c *call) error {
	reader, id, err := a.agentSLA(c)
	if err != nil {
		return err
	}
	if _, err := reader.Status(c.ctx(), id, sla.LastHour); err != nil {
		return unknownAgent(err)
	}
	f := slawatch.BreachFilter{Agents: []string{id}}
	var objective, status string
	for _, p := range []struct {
		to   *string
		name string
	}{{&objective, "objective"}, {&status, "status"}} {
		if *p.to, err = c.params.text(p.name); err != nil {
			return err
		}
	}
	f.Objective = sla.Objective(objective)
	if !slices.Contains([]sla.Objective{"", sla.Availability, sla.Latency, sla.ErrorRate}, f.Objective) {
		return refuse(asap.CodeInvalidFilter, "objective", "must be availability, latency or error_rate")
	}
	switch open := status == "open"; status {
	case "":
	case "open", "resolved":
		f.Open = &open
	default:
		return refuse(asap.CodeInvalidFilter, "status", "must be open or resolved")
	}
	if f.Severity, err = c.severity(); err != nil {
		return err
	}
	if f.Start, f.End, err = c.span(); err != nil {
		return err
	}
	limit, err := c.params.integer("limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	var after slawatch.BreachPlace
	if resumed, err := c.params.cursor("sla-breaches", &after); err != nil {
		return err
	} else if resumed {
		f.After = &after
	}
	f.Limit = limit + 1
	list, total, err := reader.Breaches(c.ctx(), f)
	if err != nil {
		return err
	}
	page := breachPage{Total: total, Data: append([]slawatch.BreachView{}, list[:min(limit, len(list))]...)}
	page.Count = len(page.Data)
	if len(list) > limit {
		last := &list[limit-1]
		next, err := encodeCursor("sla-breaches", slawatch.BreachPlace{StartedAt: last.StartedAt, ID: last.ID})
		if err != nil {
			return err
		}
		page.Next = &next
	}
	return writeJSON(c.w, http.StatusOK, page)
}

// severity reads the parameter severity; what is no severity is a 400, as v1.3.0
// answers it.
func (c *call) severity() (sla.Severity, error) {
	all, given := c.params.values["severity"]
	if !given {
		return "", nil
	}
	s := sla.Severity(all[len(all)-1])
	if s != sla.Warning && s != sla.Critical {
		p := problemOf(asap.CodeInvalidFilter, "severity must be one of: warning, critical")
		p.Status, p.Title = http.StatusBadRequest, http.StatusText(http.StatusBadRequest)
		return "", p
	}
	return s, nil
}

// The routes under /sla are v1.3.0's, over all agents that the caller sees.

type slaRow struct {
	Agent      string      `json:"agent"`
	AgentID    string      `json:"agent_id"`
	Metrics    sla.Metrics `json:"metrics"`
	Compliance *float64    `json:"compliance_percent" doc:"null without a promise or without data"`
	DataStatus string      `json:"data_status" enum:"ok,insufficient_data,no_data,excluded"`
	Score      *float64    `json:"sla_score"`
	Open       int         `json:"open_breaches"`
}

type slaPage struct {
	Data        []slaRow `json:"data"`
	Window      string   `json:"window"`
	PeriodStart string   `json:"period_start"`
	PeriodEnd   string   `json:"period_end"`
}

// selected returns the agents that a caller asks for under /sla, of those it sees.
func (a *API) selected(c *call) (SLAReader, []string, error) {
	reader, err := a.slaReader(c)
	if err != nil {
		return nil, nil, err
	}
	only, err := c.params.text("agent_id", "agent")
	if err != nil {
		return nil, nil, err
	}
	sees, err := a.visible(c)
	if err != nil {
		return nil, nil, err
	}
	ids, err := reader.Agents(c.ctx())
	if err != nil {
		return nil, nil, err
	}
	if only != "" && !slices.Contains(ids, only) {
		ids = append(ids, only) // it may have been watched once
	}
	return reader, slices.DeleteFunc(ids, func(id string) bool { return !sees(id) || only != "" && id != only }), nil
}

func (a *API) slaOverview(c *call) error {
	w, err := c.window()
	if err != nil {
		return err
	}
	reader, ids, err := a.selected(c)
	if err != nil {
		return err
	}
	now := a.cfg.Now()
	width := map[sla.Window]time.Duration{sla.LastHour: time.Hour, sla.LastDay: 24 * time.Hour, sla.LastWeek: 7 * 24 * time.Hour, sla.LastMonth: 30 * 24 * time.Hour}[w]
	page := slaPage{Data: []slaRow{}, Window: w.String(), PeriodStart: isoTime(now.Add(-width)), PeriodEnd: isoTime(now)}
	for _, id := range ids {
		s, err := reader.Status(c.ctx(), id, w)
		if errors.Is(err, slawatch.ErrUnknownAgent) {
			continue
		}
		if err != nil {
			return err
		}
		if s.DataStatus == sla.DataNone && s.Metrics.TasksCompleted+s.Metrics.TasksFailed == 0 {
			continue // an agent of which nothing is known does not appear
		}
		page.Data = append(page.Data, slaRow{Agent: id, AgentID: id, Metrics: s.Metrics, Compliance: s.CompliancePercent, DataStatus: s.DataStatus, Score: s.SLAScore, Open: len(s.OpenBreaches)})
	}
	return writeJSON(c.w, http.StatusOK, page)
}

// isoTime writes a time as v1.3.0 does where it uses an offset.
func isoTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000") + "+00:00" }

func (a *API) slaHistory(c *call) error {
	reader, ids, err := a.selected(c)
	if err != nil {
		return err
	}
	return a.history(c, func(granularity string, start, end sla.Instant) ([]slawatch.Period, error) {
		var all []slawatch.Period
		for _, id := range ids {
			// Both ends count, as in v1.3.0.
			from, until := start, end
			if from > 0 {
				from--
			}
			if until > 0 {
				until++
			}
			list, err := reader.History(c.ctx(), id, granularity, from, until)
			if err != nil && !errors.Is(err, slawatch.ErrUnknownAgent) {
				return nil, err
			}
			all = append(all, list...)
		}
		slices.SortStableFunc(all, func(x, y slawatch.Period) int { return int(x.PeriodStart - y.PeriodStart) })
		return all, nil
	})
}

type breachList struct {
	Data  []slawatch.BreachView `json:"data"`
	Count int                   `json:"count"`
}

func (a *API) slaBreaches(c *call) error {
	var f slawatch.BreachFilter
	var err error
	if f.Severity, err = c.severity(); err != nil {
		return err
	}
	reader, ids, err := a.selected(c)
	if err != nil {
		return err
	}
	if f.DetectedFrom, f.DetectedUntil, err = c.span(); err != nil {
		return err
	}
	_, one := c.params.values["agent_id"]
	_, same := c.params.values["agent"]
	if f.Ascending = true; c.caller.Role != Operator || one || same { // the operator sees those of agents that are gone too
		f.Agents = append([]string{}, ids...)
	}
	list, _, err := reader.Breaches(c.ctx(), f)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, breachList{Data: append([]slawatch.BreachView{}, list...), Count: len(list)})
}

var (
	windowParam      = parameter{name: "window", in: "query", kind: "string", enum: []any{"1h", "24h", "7d", "30d"}, doc: "24h if left out"}
	granularityParam = parameter{name: "granularity", in: "query", kind: "string", enum: []any{"hour", "day"}, doc: "of UTC; hour if left out"}
	severityParam    = parameter{name: "severity", in: "query", kind: "string", enum: []any{"warning", "critical"}, doc: "the highest a breach reached"}
	objectiveParam   = parameter{name: "objective", in: "query", kind: "string", enum: []any{"availability", "latency", "error_rate"}, doc: "which promise"}
	breachOpenParam  = parameter{name: "status", in: "query", kind: "string", enum: []any{"open", "resolved"}, doc: "both if left out"}
)

func slaAgent() []parameter {
	return []parameter{
		{name: "agent_id", in: "query", kind: "string", doc: "only this agent (URN)"},
		{name: "agent", in: "query", kind: "string", doc: "the same as agent_id"},
	}
}

// slaRoutes are the rows of the table about service levels.
func slaRoutes() []route {
	get := func(path, id string, handle func(*API, *call) error, summary string, answer any, params ...[]parameter) route {
		return route{method: "GET", path: path, id: id, access: agents, handle: handle, summary: summary, params: slices.Concat(params...), answers: map[int]any{200: answer}}
	}
	agent := []parameter{agentPathParam}
	return []route{
		get("/agents/{id}/sla", "agentSLA", (*API).agentStatus, "How an agent keeps what it promises, in a window that ends now", sla.Status{}, agent, []parameter{windowParam}),
		get("/agents/{id}/sla/history", "agentSLAHistory", (*API).agentHistory, "What an agent delivered, hour by hour or day by day, oldest first", historyPage{}, agent, []parameter{granularityParam}, timeRange(), paging(), offset()),
		get("/agents/{id}/sla/breaches", "agentSLABreaches", (*API).agentBreaches, "When an agent broke its promises, newest first", breachPage{}, agent, []parameter{breachOpenParam, severityParam, objectiveParam}, timeRange(), paging()),
		get("/agents/{id}/sla/outages", "agentSLAOutages", (*API).agentOutages, "When an agent was down in the last 35 days, newest first", outagePage{}, agent, timeRange(), paging()[:1]),
		get("/sla", "slaOverview", (*API).slaOverview, "What agents deliver, in a window that ends now", slaPage{}, slaAgent(), []parameter{windowParam}),
		get("/sla/history", "slaHistory", (*API).slaHistory, "What agents delivered, oldest first", historyPage{}, slaAgent(), []parameter{granularityParam}, timeRange(), paging(), offset()),
		get("/sla/breaches", "slaBreaches", (*API).slaBreaches, "When agents broke their promises, by the time it was detected", breachList{}, slaAgent(), []parameter{severityParam}, timeRange()),
	}
}
