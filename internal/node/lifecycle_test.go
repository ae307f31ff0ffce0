package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json/jsontext"
)

const deskURN = "urn:asap:agent:desk"

// desk is an agent whose tasks take their time: they work until they are let go,
// ask back, and keep snapshots.
type desk struct {
	agent *agent.Agent
	begun chan asap.TaskID // a task has been told to work
	done  chan struct{}    // closed to let all of them finish
	runs  atomic.Int64
}

func newDesk() *desk {
	d := &desk{agent: agent.New(deskURN, "Desk"), begun: make(chan asap.TaskID, 16), done: make(chan struct{})}
	work := func(ctx context.Context, t *agent.Task) (any, error) {
		d.runs.Add(1)
		t.Usage().AddTokens(3, 4)
		t.Progress(40, "almost half")
		if _, err := t.Snapshot(map[string]int{"pages": 4}); err != nil {
			return nil, err
		}
		d.begun <- t.ID()
		select {
		case <-d.done:
			return map[string]string{"text": "done"}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	d.agent.Handle("work", work)
	d.agent.HandleLong("study", work)
	d.agent.HandleLong("ask", func(ctx context.Context, t *agent.Task) (any, error) {
		if _, err := t.Snapshot(map[string]string{"colour": "grey"}); err != nil {
			return nil, err
		}
		d.begun <- t.ID()
		in, err := t.InputRequired(ctx, map[string]string{"question": "which colour?"})
		if err != nil {
			return nil, err
		}
		if in.Restored != nil {
			return in.Restored.Data, nil
		}
		return map[string]any{"colour": in.Message.Parts}, nil
	})
	return d
}

// asker is what both kinds of client can do.
type asker interface {
	Task(ctx context.Context, t client.TaskCall) (*client.TaskResult, error)
	Query(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*client.TaskResult, error)
	Cancel(ctx context.Context, agent asap.AgentURN, id asap.TaskID, reason string) (*client.TaskResult, error)
	Wait(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*client.TaskResult, error)
	Send(ctx context.Context, e *asap.Envelope) (*asap.Envelope, error)
}

func newSocket(t *testing.T, url string) *client.Socket {
	t.Helper()
	s, err := client.NewSocket(url, client.WithSender(callerURN))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// refusedWith checks that err is the other side's no, with this code.
func refusedWith(t *testing.T, what string, err error, code asap.Code) {
	t.Helper()
	var refused *client.RemoteError
	if !errors.As(err, &refused) || refused.DataCode != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// usageOf lists the records of one task: outcome and tokens.
func usageOf(t *testing.T, n *Node, id asap.TaskID) (rows []string) {
	t.Helper()
	for _, r := range decode[struct {
		Data []struct {
			Outcome    string `json:"outcome"`
			In, Out    *int64
			TokensIn   *int64 `json:"tokens_in"`
			TokensOut  *int64 `json:"tokens_out"`
			DurationMS *int64 `json:"duration_ms"`
		} `json:"data"`
	}](t, get(t, n, "/usage?task_id="+string(id))).Data {
		row := r.Outcome
		for _, q := range []*int64{r.TokensIn, r.TokensOut} {
			if q == nil {
				row += " -"
			} else {
				row += fmt.Sprintf(" %d", *q)
			}
		}
		if r.DurationMS == nil {
			row += " no duration"
		}
		rows = append(rows, row)
	}
	return rows
}

// The life of tasks that take long, over both transports: they are answered at
// once, tell how they stand, are asked for input, restored, cancelled; a restart
// later they are still known, to who asked for them.
func TestLongTasks(t *testing.T) {
	for _, transport := range []string{"http", "websocket"} {
		t.Run(transport, func(t *testing.T) {
			d, dir := newDesk(), t.TempDir()
			n, stop := start(t, testConfig(dir), d.agent)
			open := func(n *Node) asker {
				if transport == "http" {
					return newClient(t, n)
				}
				return newSocket(t, n.URL())
			}
			c, ctx := open(n), t.Context()

			first, err := c.Task(ctx, client.TaskCall{Recipient: deskURN, Skill: "study"})
			if err != nil || first.Status.Terminal() {
				t.Fatalf("%+v, %v", first, err)
			}
			<-d.begun
			now, err := c.Query(ctx, deskURN, first.TaskID)
			if err != nil || now.Status != asap.Working || !strings.Contains(string(now.Result), "almost half") || !strings.Contains(string(now.Response.FinalState), `"pages":4`) {
				t.Fatalf("how it stands: %s, %v", now.Response.AppendJSON(nil), err)
			}
			if rows := usageOf(t, n, first.TaskID); len(rows) != 0 {
				t.Errorf("recorded before it ended: %v", rows)
			}

			second, err := c.Task(ctx, client.TaskCall{Recipient: deskURN, Skill: "study"})
			if err != nil {
				t.Fatal(err)
			}
			<-d.begun
			cancelled, err := c.Cancel(ctx, deskURN, second.TaskID, "no longer needed")
			if err != nil || cancelled.Status != asap.Cancelled || cancelled.Receipt == nil {
				t.Fatalf("%+v, %v", cancelled, err)
			}
			if rows := usageOf(t, n, second.TaskID); len(rows) != 1 || rows[0] != "cancelled 3 4" {
				t.Errorf("a cancelled task left %v", rows)
			}

			third, err := c.Task(ctx, client.TaskCall{Recipient: deskURN, Skill: "ask"})
			if err != nil {
				t.Fatal(err)
			}
			<-d.begun
			waiting, err := c.Wait(ctx, deskURN, third.TaskID)
			if err != nil || waiting.Status != asap.InputRequired || waiting.Response.FinalState == nil {
				t.Fatalf("%+v, %v", waiting, err)
			}
			snapshot := decode[struct {
				ID string `json:"id"`
			}](t, waiting.Response.FinalState)
			restore := (&asap.StateRestore{TaskID: third.TaskID, SnapshotID: snapshot.ID}).AppendJSON(nil)
			if _, err := c.Send(ctx, &asap.Envelope{Sender: callerURN, Recipient: deskURN, PayloadType: asap.StateRestoreType, Payload: restore}); err != nil {
				t.Fatal(err)
			}
			restored, err := c.Wait(ctx, deskURN, third.TaskID)
			if err != nil || restored.Status != asap.Completed || !strings.Contains(string(restored.Result), "grey") {
				t.Fatalf("%+v, %v", restored, err)
			}

			close(d.done)
			ended, err := c.Wait(ctx, deskURN, first.TaskID)
			if err != nil || ended.Status != asap.Completed || ended.Receipt == nil {
				t.Fatalf("%+v, %v", ended, err)
			}
			if rows := usageOf(t, n, first.TaskID); len(rows) != 1 || rows[0] != "completed 3 4" {
				t.Errorf("it left %v", rows)
			}

			stop()
			n, _ = start(t, testConfig(dir), newDesk().agent)
			c = open(n)
			again, err := c.Query(ctx, deskURN, first.TaskID)
			if err != nil || again.Status != asap.Completed || string(again.Result) != string(ended.Result) || again.Receipt == nil || *again.Receipt != *ended.Receipt {
				t.Errorf("after the restart: %+v, %v", again, err)
			}
			if again, err = c.Query(ctx, deskURN, second.TaskID); err != nil || again.Status != asap.Cancelled {
				t.Errorf("after the restart: %+v, %v", again, err)
			}
			_, err = c.Cancel(ctx, deskURN, first.TaskID, "too late")
			refusedWith(t, "cancel after the restart", err, asap.CodeAgentTaskCompleted)
			_, err = c.Query(ctx, deskURN, "task_00000000000000000000000000")
			refusedWith(t, "a task that never was", err, asap.CodeTaskNotFound)
			stranger, err := client.New(n.URL(), client.WithSender("urn:asap:agent:stranger"))
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			_, err = stranger.Query(ctx, deskURN, first.TaskID)
			refusedWith(t, "somebody else's task", err, asap.CodeTaskNotFound)
		})
	}
}

// A task asked for over a WebSocket survives the node's restart: the client asks
// again with the same bytes and gets what the first request came to, run once.
func TestSocketSurvivesRestart(t *testing.T) {
	d, dir := newDesk(), t.TempDir()
	n, stop := start(t, testConfig(dir), d.agent)
	s := newSocket(t, n.URL())
	results := make(chan *client.TaskResult, 1)
	go func() {
		r, err := s.Task(t.Context(), client.TaskCall{Recipient: deskURN, Skill: "work"})
		if err != nil {
			t.Errorf("the task over the restart: %v", err)
		}
		results <- r
	}()
	id := <-d.begun
	config := n.config
	config.Listen = n.listener.Addr().String()
	close(d.done) // it ends while the node stops, or before
	stop()
	n, _ = start(t, config, newDesk().agent)
	r := <-results
	if r == nil || r.Status != asap.Completed || r.TaskID != id || r.Receipt == nil {
		t.Errorf("%+v", r)
	}
	if rows := usageOf(t, n, id); len(rows) != 1 || rows[0] != "completed 3 4" || d.runs.Load() != 1 {
		t.Errorf("%d runs, records %v", d.runs.Load(), rows)
	}
}

// A node that is killed during a task knows that it does not know how far it
// came; who waits on a WebSocket is told so by the next node, and can go on.
func TestSocketSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	url, kill := startChild(t, dir)
	s := newSocket(t, url)
	results := make(chan *client.TaskResult, 1)
	go func() {
		r, err := s.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "forever", TraceID: "lost"})
		if err != nil {
			t.Errorf("the task over the kill: %v", err)
		}
		results <- r
	}()
	for store := openLedger(t, dir); ; {
		if held, _, err := store.Holds(t.Context()); err != nil {
			t.Fatal(err)
		} else if held == 1 {
			break
		}
	}
	kill()
	config := testConfig(dir)
	config.Listen = strings.TrimPrefix(url, "http://")
	n, _ := start(t, config, counter(new(atomic.Int64)))
	r := <-results
	if r == nil || r.Status != asap.Failed || !strings.Contains(string(r.Result), string(asap.CodeTaskIndeterminate)) || r.Receipt == nil {
		t.Fatalf("%+v", r)
	}
	if rows := usageOf(t, n, r.TaskID); len(rows) != 1 || rows[0] != "failed - - no duration" {
		t.Errorf("records %v", rows)
	}
	if r, err := s.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":5}`)}); err != nil || r.Status != asap.Completed {
		t.Errorf("the next task on the same socket: %+v, %v", r, err)
	}
}

// What a task's own HTTP client sees of providers' answers arrives in the ledger
// as it was: OpenAI's JSON and Anthropic's stream.
func TestOutboundUsage(t *testing.T) {
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/chat/completions":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"model":"gpt-x","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":50,"prompt_tokens_details":{"cached_tokens":40},"completion_tokens_details":{"reasoning_tokens":20}}}`)
		case "/v1/messages":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\n"+
				"event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n")
		default:
			http.NotFound(w, r)
		}
	}))
	defer provider.Close()
	a := agent.New("urn:asap:agent:writer", "Writer")
	a.Handle("call", func(ctx context.Context, t *agent.Task) (any, error) {
		var in struct{ Paths []string }
		if err := t.Decode(&in); err != nil {
			return nil, err
		}
		for _, path := range in.Paths {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, provider.URL+path, http.NoBody)
			if err != nil {
				return nil, err
			}
			res, err := t.HTTPClient().Do(req)
			if err != nil {
				return nil, err
			}
			_, err = io.Copy(io.Discard, res.Body)
			if err := errors.Join(err, res.Body.Close()); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	n, _ := start(t, testConfig(t.TempDir()), a)
	c := newClient(t, n)
	for input, want := range map[string]string{
		`{"Paths":["/v1/chat/completions"]}`:                `{"tokens_in":100,"tokens_out":50,"api_calls":1,"model":"gpt-x","evidence":"provider_reported"}`,
		`{"Paths":["/v1/messages"]}`:                        `{"tokens_in":30,"tokens_out":15,"api_calls":1,"model":"claude-x","evidence":"provider_reported"}`,
		`{"Paths":["/v1/chat/completions","/v1/messages"]}`: `{"tokens_in":130,"tokens_out":65,"api_calls":2,"evidence":"provider_reported"}`,
		`{"Paths":["/nothing"]}`:                            `{"tokens_in":null,"tokens_out":null,"api_calls":1,"model":null,"evidence":"observed"}`,
		`{"Paths":[]}`:                                      `{"tokens_in":null,"tokens_out":null,"api_calls":null,"model":null,"evidence":"observed"}`,
	} {
		r, err := c.Task(t.Context(), client.TaskCall{Recipient: a.URN(), Skill: "call", Input: jsontext.Value(input)})
		if err != nil || r.Status != asap.Completed {
			t.Fatalf("%s: %+v, %v", input, r, err)
		}
		got := decode[struct {
			Data []map[string]any `json:"data"`
		}](t, get(t, n, "/usage?task_id="+string(r.TaskID))).Data
		if len(got) != 1 {
			t.Fatalf("%s: %v", input, got)
		}
		for name, value := range decode[map[string]any](t, []byte(want)) {
			if got[0][name] != value {
				t.Errorf("%s: %s is %v, want %v", input, name, got[0][name], value)
			}
		}
	}
	sum := decode[map[string]any](t, get(t, n, "/usage/summary"))
	if sum["total_tokens_in"] != 260.0 || sum["total_tokens_out"] != 130.0 || sum["total_api_calls"] != 5.0 || sum["unreported_tasks"] != 2.0 {
		t.Errorf("%v", sum)
	}
}

// A ledger in memory works like the other one, leaves no file, and forgets.
func TestMemoryStore(t *testing.T) {
	c := testConfig(t.TempDir())
	c.Store = "memory:"
	for range 2 {
		n, stop := start(t, c, counter(new(atomic.Int64)))
		if !strings.Contains(n.Greeting(), "forgotten") {
			t.Error(n.Greeting())
		}
		call := client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":7}`), EnvelopeID: "one", ConversationID: "c", Timestamp: time.Now()}
		for range 2 {
			if r, err := newClient(t, n).Task(t.Context(), call); err != nil || r.Receipt == nil {
				t.Fatalf("%+v, %v", r, err)
			}
		}
		if sum := decode[map[string]any](t, get(t, n, "/usage/summary")); sum["total_tasks"] != 1.0 || sum["total_tokens_out"] != 14.0 {
			t.Errorf("%v", sum)
		}
		if log := decode[map[string]any](t, get(t, n, "/audit/logs?event_type=usage.recorded")); log["count"] != 1.0 {
			t.Errorf("%v", log)
		}
		stop()
		if _, err := os.Stat(filepath.Join(c.Data, LedgerFile)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the ledger left a file: %v", err)
		}
	}
}
