package agent_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"

	"github.com/asap-protocol/asap-go/agent"
)

// An agent with one skill, on port 8080 until the program is interrupted.
func Example() {
	greeter := agent.New("urn:asap:agent:greeter", "Greeter")
	greeter.Handle("greet", func(_ context.Context, t *agent.Task) (any, error) {
		var in struct {
			Name string `json:"name"`
		}
		if err := t.Decode(&in); err != nil {
			return nil, err
		}
		return map[string]string{"greeting": "Hello, " + in.Name}, nil
	})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := agent.ListenAndServe(ctx, "127.0.0.1:8080", agent.Config{
		Agents: []*agent.Agent{greeter}, Ledger: agent.Unmetered(), AllowUnverified: agent.FromLoopback})
	if err != nil {
		fmt.Println(err)
	}
}

// A skill that calls a model: the calls and the tokens are counted by the
// client the task brings.
func ExampleTask_HTTPClient() {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"model":"small","usage":{"prompt_tokens":12,"completion_tokens":3}}`)
	}))
	defer model.Close()
	writer := agent.New("urn:asap:agent:writer", "Writer")
	writer.Handle("write", func(ctx context.Context, t *agent.Task) (any, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, model.URL, strings.NewReader(`{"prompt":"…"}`))
		if err != nil {
			return nil, err
		}
		resp, err := t.HTTPClient().Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return nil, err
	})
	server, err := agent.NewServer(agent.Config{Agents: []*agent.Agent{writer}, Ledger: agent.Unmetered(),
		AllowUnverified: func(*http.Request) bool { return true }})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop(server)
	answer := ask(server, "write", `{}`)
	fmt.Println(between(answer, `"metrics":{`, `,"duration_ms"`), between(answer, `"model":`, `}`))
	// Output: "tokens_in":12,"tokens_out":3,"api_calls":1 "small"
}

// A long-running skill tells how far it is and keeps its state.
func ExampleAgent_HandleLong() {
	reader := agent.New("urn:asap:agent:reader", "Reader")
	reader.HandleLong("read", func(ctx context.Context, t *agent.Task) (any, error) {
		for page := 1; page <= 3; page++ {
			if err := ctx.Err(); err != nil {
				return nil, err // cancelled, or out of time
			}
			t.Progress(float64(page)*100/3, fmt.Sprintf("page %d", page))
			if _, err := t.Snapshot(map[string]int{"page": page}); err != nil {
				return nil, err
			}
		}
		return map[string]int{"pages": 3}, nil
	})
	server, err := agent.NewServer(agent.Config{Agents: []*agent.Agent{reader}, Ledger: agent.Unmetered(),
		AllowUnverified: func(*http.Request) bool { return true }})
	if err != nil {
		fmt.Println(err)
		return
	}
	ask(server, "read", `{}`)
	stop(server) // lets the task finish
	fmt.Println(between(ask(server, "read", `{}`), `"completed","result":`, `,"final_state"`))
	// Output: {"pages":3}
}

func stop(server *agent.Server) {
	if err := server.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
}

func ask(server *agent.Server, skill, input string) string {
	body := `{"jsonrpc":"2.0","method":"asap.send","params":{"envelope":{"id":"e1","asap_version":"0.1","sender":"urn:asap:agent:me","recipient":"urn:asap:agent:you",` +
		`"payload_type":"task.request","payload":{"conversation_id":"c","skill_id":"` + skill + `","input":` + input + `}}},"id":1}`
	w := httptest.NewRecorder()
	server.Handler().ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/asap", strings.NewReader(body)))
	return w.Body.String()
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	if i := strings.LastIndex(s, "},\"id\""); to == "" && i >= 0 {
		return s[:i]
	}
	s, _, _ = strings.Cut(s, to)
	return s
}
