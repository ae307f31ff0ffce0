// Package monitoring holds the Prometheus rules and the Grafana dashboard for
// nodes, and checks that they load and ask for what a node has.
package monitoring

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/internal/node"
)

// series are the names that a node has in /metrics after a task and a refusal of
// each kind, and those that rules record.
func series(t *testing.T) map[string]bool {
	t.Helper()
	config := node.Defaults()
	config.Listen, config.Data, config.Store = "127.0.0.1:0", t.TempDir(), "memory:"
	n, err := node.Open(t.Context(), config, node.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := errors.Join(<-ended, n.Close()); err != nil {
			t.Error(err)
		}
	}()
	c, err := client.New(n.URL(), client.WithSender("urn:asap:agent:caller"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Task(t.Context(), client.TaskCall{Recipient: asap.AgentURN("urn:asap:agent:echo"), Skill: "echo", Input: jsontext.Value(`{}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Task(t.Context(), client.TaskCall{Recipient: asap.AgentURN("urn:asap:agent:echo"), Skill: "none", Input: jsontext.Value(`{}`)}); err == nil {
		t.Fatal("a skill that is not there")
	}
	res, err := http.Post(n.URL()+"/asap", "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{"envelope":{}}}`)) //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res, err = http.Get(n.URL() + "/metrics"); err != nil { //nolint:noctx // a test
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{"up": true}
	for line := range strings.Lines(string(text)) {
		if name, _, _ := strings.Cut(strings.TrimSpace(line), " "); name != "" && !strings.HasPrefix(name, "#") {
			name, _, _ = strings.Cut(name, "{")
			names[name] = true
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok { // a vector without values has no line; its type has
			name, _, _ := strings.Cut(rest, " ")
			names[name] = true
		}
	}
	return names
}

// uses lists the series that an expression asks for.
func uses(t *testing.T, where, expr string) []string {
	t.Helper()
	e, err := parser.ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return nil
	}
	var names []string
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			for _, m := range v.LabelMatchers {
				if m.Name == labels.MetricName {
					names = append(names, m.Value)
				}
			}
		}
		return nil
	})
	return names
}

func TestRulesAndDashboard(t *testing.T) {
	groups, errs := rulefmt.ParseFile("asap.rules.yaml", false, model.UTF8Validation)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	have := series(t)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				have[r.Record] = true
			}
		}
	}
	check := func(where, expr string) {
		for _, name := range uses(t, where, expr) {
			if !have[name] {
				t.Errorf("%s asks for %s, which no node has", where, name)
			}
		}
	}
	rules := 0
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			rules++
			check(r.Record+r.Alert, r.Expr)
		}
	}
	text, err := os.ReadFile("asap-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	variable := regexp.MustCompile(`\$\w+`)
	ids, queries := map[int]bool{}, 0
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H == 0 {
			t.Errorf("panel %q: its id comes twice, or it does not fit", p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			queries++
			check(p.Title, variable.ReplaceAllString(target.Expr, "x"))
		}
	}
	if rules < 10 || queries < 15 {
		t.Error("too little was checked", rules, queries)
	}
}
