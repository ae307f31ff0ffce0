package httpapi

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/sla"
	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// slaDifferences are where the routes under /sla deliberately answer otherwise
// than v1.3.0, as differences is for usage; "sqlite/" or "memory/" before a name
// means that recording alone. What rows of /sla say is measured here and was
// written by hand there (sla-measured), so of those the members are compared and
// not the values.
var slaDifferences = map[string]struct {
	status int
	name   string
}{
	"history_start_naive":         {422, "sla-zoneless-filter"},
	"sqlite/history_start_offset": {200, "sla-zoned-filter"},
}

// seeded is a reader of what the recording's stores held.
type seeded struct {
	metrics  []slawatch.Period
	breaches []slawatch.BreachView
}

func (s *seeded) Agents(context.Context) ([]string, error) {
	var ids []string
	for i := range s.metrics {
		ids = append(ids, s.metrics[i].AgentID)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func (s *seeded) Status(_ context.Context, id string, w sla.Window) (*sla.Status, error) {
	for i := len(s.metrics) - 1; i >= 0; i-- {
		if m := &s.metrics[i]; m.AgentID == id {
			return &sla.Status{AgentID: id, Window: w, Metrics: m.Metrics, DataStatus: sla.DataOK}, nil
		}
	}
	return nil, slawatch.ErrUnknownAgent
}

func (s *seeded) History(_ context.Context, id, _ string, start, end sla.Instant) (list []slawatch.Period, err error) {
	for _, m := range s.metrics {
		if m.AgentID == id && m.PeriodEnd > start && (end == 0 || m.PeriodStart < end) {
			list = append(list, m)
		}
	}
	slices.SortStableFunc(list, func(a, b slawatch.Period) int { return cmp.Compare(a.PeriodStart, b.PeriodStart) })
	return list, nil
}

func (s *seeded) Outages(context.Context, string, sla.Instant, sla.Instant) ([]slawatch.Outage, error) {
	return nil, nil
}

func (s *seeded) Maintenance(context.Context, string) ([]slawatch.Maintenance, error) {
	return nil, nil
}

func (s *seeded) Breaches(_ context.Context, f slawatch.BreachFilter) (list []slawatch.BreachView, total int, err error) {
	for _, b := range s.breaches {
		if (f.Agents == nil || slices.Contains(f.Agents, b.AgentID)) && (f.Severity == "" || f.Severity == b.Severity) &&
			b.DetectedAt >= f.DetectedFrom && (f.DetectedUntil == 0 || b.DetectedAt <= f.DetectedUntil) {
			list = append(list, b)
		}
	}
	slices.SortFunc(list, func(a, b slawatch.BreachView) int {
		return cmp.Or(cmp.Compare(a.DetectedAt, b.DetectedAt), cmp.Compare(a.ID, b.ID))
	})
	return list, len(list), nil
}

func TestSLAExchangesAsRecorded(t *testing.T) {
	b, err := os.ReadFile("testdata/sla_http.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Seed struct {
			Metrics  []slawatch.Period     `json:"metrics"`
			Breaches []slawatch.BreachView `json:"breaches"`
		} `json:"seed"`
		Groups []struct {
			Config struct {
				Storage string `json:"sla_storage"`
			} `json:"server_config"`
			Exchanges []exchange `json:"exchanges"`
		} `json:"groups"`
	}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range slaDifferences {
		if !strings.Contains(string(page), "`"+d.name+"`") {
			t.Errorf("docs/compatibility.md does not list %s (%s)", d.name, name)
		}
	}
	replayed := 0
	for _, g := range all.Groups {
		for _, x := range g.Exchanges {
			if x.Name == "sla_unknown_sub" {
				continue // no route of this package
			}
			reader := &seeded{}
			if !strings.HasSuffix(x.Name, "_no_data") {
				reader.metrics, reader.breaches = all.Seed.Metrics, all.Seed.Breaches
			}
			n := newNode(t, func(c *Config) {
				c.SLA = func(context.Context) (SLAReader, error) { return reader, nil }
			})
			n.setClock(x.Clock)
			got := n.do("operator", x.Request.Method, x.Request.Target, "")
			replayed++
			name := g.Config.Storage + "/" + x.Name
			d, differs := slaDifferences[name]
			if !differs {
				d, differs = slaDifferences[x.Name]
			}
			switch path, _, _ := strings.Cut(x.Request.Target, "?"); {
			case differs:
				if got.Code != d.status {
					t.Errorf("%s: status %d, want %d (%s): %s", name, got.Code, d.status, d.name, got.Body)
				}
			case path == "/sla" && x.Response.Status == 200:
				compareOverview(t, name, &x, got)
			default:
				compare(t, name, &x, got)
				if x.Response.Status == 400 { // these texts are v1.3.0's to the letter
					var want map[string]string
					if err := json.Unmarshal([]byte(x.Response.Body), &want); err != nil || got.is(400)["detail"] != want["detail"] {
						t.Errorf("%s: %s, recorded %s", name, got.Body, x.Response.Body)
					}
				}
			}
		}
	}
	if replayed < 80 {
		t.Errorf("only %d exchanges were replayed", replayed)
	}
}

// compareOverview compares the form of an answer about a window.
func compareOverview(t *testing.T, name string, x *exchange, got answer) {
	t.Helper()
	have := got.is(200)
	var want map[string]any
	if err := json.Unmarshal([]byte(x.Response.Body), &want); err != nil {
		t.Fatal(err)
	}
	for _, bound := range []string{"period_start", "period_end"} {
		if text, _ := have[bound].(string); !strings.HasSuffix(text, "+00:00") {
			t.Errorf("%s: %s is %v", name, bound, have[bound])
		}
	}
	rows, _ := have["data"].([]any)
	if have["window"] != want["window"] || len(want["data"].([]any)) > 0 != (len(rows) > 0) {
		t.Errorf("%s:\n got %s\nwant %s", name, got.Body, x.Response.Body)
	}
	for _, wanted := range want["data"].([]any) {
		for member := range wanted.(map[string]any) {
			if _, there := rows[0].(map[string]any)[member]; !there {
				t.Errorf("%s: no member %s", name, member)
			}
		}
		for member := range wanted.(map[string]any)["metrics"].(map[string]any) {
			if _, there := rows[0].(map[string]any)["metrics"].(map[string]any)[member]; !there {
				t.Errorf("%s: no member metrics.%s", name, member)
			}
		}
	}
}

// An agent sees itself and those that worked for it, and nobody else.
func TestSLAOfOthersIsNotThere(t *testing.T) {
	reader := &seeded{metrics: []slawatch.Period{{Metrics: sla.Metrics{AgentID: "urn:asap:agent:a"}}, {Metrics: sla.Metrics{AgentID: "urn:asap:agent:b"}}},
		breaches: []slawatch.BreachView{{ID: "breach_a", AgentID: "urn:asap:agent:a"}, {ID: "breach_b", AgentID: "urn:asap:agent:b"}}}
	n := newNode(t, func(c *Config) { c.SLA = func(context.Context) (SLAReader, error) { return reader, nil } })
	me := "urn:asap:agent:b"
	for _, rest := range []string{"", "/history", "/breaches", "/outages"} {
		n.do(me, "GET", "/agents/urn:asap:agent:a/sla"+rest, "").refuses(404, "not_found")
		n.do(me, "GET", "/agents/urn%3Aasap%3Aagent%3Ab/sla"+rest, "").is(200)
		n.do("operator", "GET", "/agents/urn:asap:agent:a/sla"+rest, "").is(200)
		n.do("", "GET", "/agents/urn:asap:agent:a/sla"+rest, "").refuses(401, "unauthenticated")
	}
	for _, path := range []string{"/sla", "/sla/history", "/sla/breaches", "/sla/breaches?agent_id=urn:asap:agent:a"} {
		if body := n.do(me, "GET", path, "").Body.String(); strings.Contains(body, "agent:a\"") {
			t.Errorf("%s: %s", path, body)
		}
	}
	n.get("/agents/urn:asap:agent:a/sla?window=2d").refuses(400, "invalid_window")
	n.get("/agents/urn:asap:agent:nobody/sla").refuses(404, "not_found")
	n.get("/agents/urn:asap:agent:a/sla/breaches?status=closed").refuses(422, "invalid_filter")
	n.get("/agents/urn:asap:agent:a/sla/history?granularity=week").refuses(422, "invalid_filter")
}
