// Command planner is an agent that works on other people's money: it looks at
// what the delegation of its caller has left, and passes a part of it on to a
// searcher. Beside it the searcher is served, which promises to be quick and
// counts what its model uses.
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"strings"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/host"
)

const searcherURN = "urn:asap:agent:searcher"

// plan is the planner's skill.
func plan(ctx context.Context, t *agent.Task) (any, error) {
	if d := t.Delegation(); d != nil {
		left, err := d.Budget(ctx)
		if err != nil {
			return nil, err
		}
		if left.RemainingNanoUSD != nil && *left.RemainingNanoUSD < delegation.NanoPerUSD/2 {
			return nil, &agent.Failure{Code: "too_little_left", Message: "this takes 50 cents; " + delegation.FormatUSD(*left.RemainingNanoUSD) + " USD are left"}
		}
	}
	// Five tasks of what the caller has given, for the searcher and nobody else.
	token, err := t.Delegate(ctx, agent.Share{To: searcherURN, MaxTasks: new(int64(5)), Final: true})
	if err != nil {
		return nil, err
	}
	return map[string]string{"delegation": token}, nil
}

// search is the searcher's skill. Calls through the task's own client are counted,
// and so are the tokens that a model's answer names.
func search(ctx context.Context, t *agent.Task) (any, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:11434/v1/completions", strings.NewReader(string(t.Input())))
	if err != nil {
		return nil, err
	}
	res, err := t.HTTPClient().Do(req)
	if err != nil {
		return nil, &agent.Failure{Code: "model_down", Message: "the model does not answer"}
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	return map[string]string{"answer": string(answer)}, err
}

func main() {
	planner := agent.New("urn:asap:agent:planner", "Planner")
	planner.Handle("plan", plan)

	searcher := agent.New(searcherURN, "Searcher", agent.SLA(promise()))
	searcher.Handle("search", search, agent.Scopes("search.paid"))

	if err := host.Run(context.Background(), host.Options{}, planner, searcher); err != nil {
		log.Fatal(err)
	}
}

// promise is what the searcher promises in its manifest.
func promise() asap.SLADefinition {
	availability, err := asap.ParsePercentage("99.5%")
	if err != nil {
		log.Fatal(err)
	}
	return asap.SLADefinition{Availability: &availability, MaxLatencyP95MS: new(int64(800))}
}
