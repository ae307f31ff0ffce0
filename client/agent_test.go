package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
)

// realAgent is the agent of this project on a network inside the process.
type realAgent struct {
	net  *pipeNet
	runs atomic.Int64 // of all skills
	// finish lets a task of the skill long end.
	finish chan struct{}

	mu    sync.Mutex // guards conns
	conns []net.Conn // the clients' ends
}

// receipts is a ledger that records nothing and gives receipts.
type receipts struct{ agent.Ledger }

func (receipts) Settle(context.Context, agent.Settlement) (agent.Receipt, error) {
	return agent.Receipt{Seq: 41, EntryID: "evt_1", Hash: [32]byte{1, 2, 3}}, nil
}

func startAgent(t *testing.T) *realAgent {
	t.Helper()
	r := &realAgent{net: newPipeNet(), finish: make(chan struct{})}
	a := agent.New(string(recipient), "Provider")
	a.Handle("echo", func(_ context.Context, task *agent.Task) (any, error) {
		r.runs.Add(1)
		return map[string]any{"echoed": task.Input()}, nil
	})
	a.Handle("slow", func(context.Context, *agent.Task) (any, error) {
		r.runs.Add(1)
		time.Sleep(3 * time.Second)
		return nil, nil
	})
	a.HandleLong("long", func(ctx context.Context, task *agent.Task) (any, error) {
		r.runs.Add(1)
		task.Progress(50, "half way")
		select {
		case <-r.finish:
			return map[string]any{"done": true}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	server, err := agent.NewServer(agent.Config{
		Agents: []*agent.Agent{a}, Ledger: receipts{agent.Unmetered()},
		AllowUnverified: func(*http.Request) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(ctx, r.net); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// dial notes the connections, so that cut can break them.
func (r *realAgent) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := r.net.dial(ctx, network, address)
	if err == nil {
		r.mu.Lock()
		r.conns = append(r.conns, c)
		r.mu.Unlock()
	}
	return c, err
}

func (r *realAgent) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

func (r *realAgent) options(t *testing.T, opts ...Option) []Option {
	t.Helper()
	rt := &http.Transport{DialContext: r.dial, MaxIdleConnsPerHost: 10}
	t.Cleanup(rt.CloseIdleConnections)
	return append([]Option{WithTransport(rt), WithSender(sender)}, opts...)
}

// overBoth runs test against the real agent over each transport.
func overBoth(t *testing.T, test func(t *testing.T, r *realAgent, target either)) {
	t.Run("http", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := startAgent(t)
			c, err := New(fakeURL, r.options(t)...)
			if err != nil {
				t.Fatal(err)
			}
			test(t, r, c)
		})
	})
	t.Run("websocket", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := startAgent(t)
			s, err := NewSocket(fakeURL, r.options(t)...)
			if err != nil {
				t.Fatal(err)
			}
			connect(t, s)
			defer func() { _ = s.Close() }()
			test(t, r, s)
		})
	})
}

// either is a Client or a Socket.
type either interface {
	Send(ctx context.Context, e *asap.Envelope) (*asap.Envelope, error)
	Task(ctx context.Context, t TaskCall) (*TaskResult, error)
	Wait(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*TaskResult, error)
	Query(ctx context.Context, agent asap.AgentURN, id asap.TaskID) (*TaskResult, error)
	Cancel(ctx context.Context, agent asap.AgentURN, id asap.TaskID, reason string) (*TaskResult, error)
}

func TestAgentTask(t *testing.T) {
	overBoth(t, func(t *testing.T, r *realAgent, target either) {
		input := jsontext.Value(`{"text":"` + strings.Repeat("long ", 1000) + `"}`)
		call := TaskCall{Recipient: recipient, Skill: "echo", Input: input, EnvelopeID: "e1"}
		first, err := target.Task(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		if first.Status != asap.Completed || string(first.Result) != `{"echoed":`+string(input)+`}` {
			t.Errorf("%+v", first)
		}
		if first.Receipt == nil || first.Receipt.Seq != 41 || first.Receipt.EntryID != "evt_1" || first.Receipt.Hash != [32]byte{1, 2, 3} {
			t.Errorf("receipt %+v", first.Receipt)
		}
		again, err := target.Task(t.Context(), call)
		if err != nil || again.TaskID != first.TaskID || r.runs.Load() != 1 {
			t.Errorf("the same call again: %+v, %v, %d runs", again, err, r.runs.Load())
		}

		call.Input = jsontext.Value(`{}`)
		_, err = target.Task(t.Context(), call)
		wantCode(t, err, asap.CodeIdempotencyConflict)
		_, err = target.Task(t.Context(), TaskCall{Recipient: recipient, Skill: "nothing"})
		wantCode(t, err, asap.CodeSkillUnknown)
		_, err = target.Query(t.Context(), recipient, "task_none")
		wantCode(t, err, asap.CodeTaskNotFound)
		stale := newTestEnvelope("stale")
		stale.Timestamp, stale.TimestampSet = time.Now().Add(-time.Hour), true
		_, err = target.Send(t.Context(), stale)
		wantCode(t, err, asap.CodeInvalidTimestamp)
	})
}

func wantCode(t *testing.T, err error, code asap.Code) {
	t.Helper()
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.DataCode != code || MayHaveExecuted(err) {
		t.Errorf("error %v, want code %s", err, code)
	}
}

func TestAgentLongTask(t *testing.T) {
	overBoth(t, func(t *testing.T, r *realAgent, target either) {
		task, err := target.Task(t.Context(), TaskCall{Recipient: recipient, Skill: "long"})
		if err != nil || task.Status != asap.Working {
			t.Fatalf("%+v, %v", task, err)
		}
		go func() { time.Sleep(time.Minute); r.finish <- struct{}{} }()
		ended, err := target.Wait(t.Context(), recipient, task.TaskID)
		if err != nil || ended.Status != asap.Completed || string(ended.Result) != `{"done":true}` {
			t.Errorf("%+v, %v", ended, err)
		}

		task, err = target.Task(t.Context(), TaskCall{Recipient: recipient, Skill: "long"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = target.Cancel(t.Context(), recipient, task.TaskID, "enough"); err != nil {
			t.Fatal(err)
		}
		ended, err = target.Wait(t.Context(), recipient, task.TaskID)
		if err != nil || ended.Status != asap.Cancelled {
			t.Errorf("%+v, %v", ended, err)
		}
	})
}

// TestAgentResume cuts the connections under both transports while tasks are
// under way: each runs once and is answered.
func TestAgentResume(t *testing.T) {
	overBoth(t, func(t *testing.T, r *realAgent, target either) {
		var wg sync.WaitGroup
		for range 3 {
			for range 5 {
				wg.Go(func() {
					if _, err := target.Task(t.Context(), TaskCall{Recipient: recipient, Skill: "slow"}); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait() // all of them are being worked on
			r.cut()
			wg.Wait()
		}
		if r.runs.Load() != 15 {
			t.Errorf("%d runs of 15 tasks", r.runs.Load())
		}
	})
}

// TestAgentRateLimit sends more at once than the agent takes from one
// connection: it closes it, and the socket goes on more slowly.
func TestAgentRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startAgent(t)
		s, err := NewSocket(fakeURL, r.options(t)...)
		if err != nil {
			t.Fatal(err)
		}
		connect(t, s)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := s.Task(t.Context(), TaskCall{Recipient: recipient, Skill: "echo"}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if r.runs.Load() != 50 {
			t.Errorf("%d runs of 50 tasks", r.runs.Load())
		}
		if took := time.Since(epoch()); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		_ = s.Close()
	})
}

func TestAgentHeartbeatAndPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startAgent(t)
		var got events
		s, err := NewSocket(fakeURL, r.options(t, WithHandlers(Handlers{
			Push:         func(_ context.Context, e *asap.Envelope) { got.add("%s", e.PayloadType) },
			Invalid:      func(_ context.Context, err error) { got.add("invalid: %v", err) },
			RemoteError:  func(_ context.Context, err *RemoteError) { got.add("error: %v", err) },
			Disconnected: func(_ context.Context, err error) { got.add("disconnected: %v", err) },
		}))...)
		if err != nil {
			t.Fatal(err)
		}
		connect(t, s)
		if _, err := s.SubscribeSLA(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if _, err := s.Task(t.Context(), TaskCall{Recipient: recipient, Skill: "long"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Minute) // heartbeats in both directions keep the connection
		r.finish <- struct{}{}
		synctest.Wait()
		got.mu.Lock()
		if len(got.list) == 0 || got.list[len(got.list)-1] != "task.response" {
			t.Errorf("told %q, want the answer last", got.list)
		}
		for _, e := range got.list {
			if e != "task.update" && e != "task.response" {
				t.Errorf("told %q", e)
			}
		}
		got.mu.Unlock()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAgentDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startAgent(t)
		c, err := New(fakeURL, r.options(t)...)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			m, err := c.Manifest(t.Context())
			if err != nil || m.Manifest.ID != recipient {
				t.Fatalf("%+v, %v", m, err)
			}
			time.Sleep(time.Hour) // the second time it is asked whether it changed
		}
		h, err := c.Health(t.Context())
		if err != nil || !h.Healthy() || h.AgentID != recipient {
			t.Errorf("%+v, %v", h, err)
		}
	})
}
