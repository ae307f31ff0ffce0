package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"time"

	"github.com/a2aproject/a2a-go/v2/a2a"
	"github.com/a2aproject/a2a-go/v2/a2asrv"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/internal/load"
	"github.com/asap-protocol/asap-go/internal/node"
)

// serve runs one of the servers of P1, P2 and P14 until ctx ends. Each is a
// process of its own, so that what it uses can be told from what its client uses.
func serve(ctx context.Context, kind string, args []string) error {
	switch kind {
	case "floor":
		return serveHTTP(ctx, http.HandlerFunc(echoJSON))
	case "a2a":
		handler := a2asrv.NewJSONRPCHandler(a2asrv.NewHandler(a2aEcho{}))
		return serveHTTP(ctx, handler)
	case "bare":
		s, err := agent.NewServer(agent.Config{Agents: []*agent.Agent{agent.Echo("urn:asap:agent:echo")}, Ledger: agent.Unmetered(), AllowUnverified: agent.FromLoopback})
		if err != nil {
			return err
		}
		return errors.Join(serveHTTP(ctx, s.Handler()), s.Shutdown(context.WithoutCancel(ctx)))
	case "node":
		if len(args) > 1 && args[1] != "" {
			f, err := os.Create(args[1])
			if err != nil {
				return err
			}
			if err := pprof.StartCPUProfile(f); err != nil {
				return err
			}
			defer func() { pprof.StopCPUProfile(); _ = f.Close() }() // a profile is for reading along
		}
		return serveNode(ctx, args[0])
	}
	return fmt.Errorf("no server %q", kind)
}

// serveHTTP serves on a free port of this machine and prints the URL.
func serveHTTP(ctx context.Context, handler http.Handler) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	fmt.Printf("serves at http://%s\n", listener.Addr())
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = server.Shutdown(stopping)
	if serveErr := <-done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// echoJSON is the floor: it reads a JSON-RPC request and answers with its
// parameters. Nobody is asked who they are, and nothing is kept.
func echoJSON(w http.ResponseWriter, r *http.Request) {
	var request struct {
		ID     jsontext.Value `json:"id"`
		Params jsontext.Value `json:"params"`
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 10<<20))
	if err == nil {
		err = json.Unmarshal(body, &request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	answer, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": request.ID, "result": request.Params})
	if err == nil {
		_, _ = w.Write(answer) // a client that has gone needs no answer
	}
}

// a2aEcho is an agent of the A2A protocol that makes a task of each message, as
// one does whose work is to be followed: submitted, working, an artifact, done.
// Its tasks are kept in memory, the store that a2a-go brings along.
type a2aEcho struct{}

func (a2aEcho) Execute(_ context.Context, task *a2asrv.ExecutorContext) iter.Seq2[a2a.Event, error] {
	return func(yield func(a2a.Event, error) bool) {
		_ = yield(a2a.NewSubmittedTask(task, task.Message), nil) &&
			yield(a2a.NewStatusUpdateEvent(task, a2a.TaskStateWorking, nil), nil) &&
			yield(a2a.NewArtifactEvent(task, task.Message.Parts...), nil) &&
			yield(a2a.NewStatusUpdateEvent(task, a2a.TaskStateCompleted, nil), nil)
	}
}

func (a2aEcho) Cancel(_ context.Context, task *a2asrv.ExecutorContext) iter.Seq2[a2a.Event, error] {
	return func(yield func(a2a.Event, error) bool) {
		yield(a2a.NewStatusUpdateEvent(task, a2a.TaskStateCanceled, nil), nil)
	}
}

// serveNode serves the scene in a directory: what asap serve does, with an agent
// that makes promises.
func serveNode(ctx context.Context, dir string) error {
	config, err := node.Load(dir+"/asap.yaml", nil)
	if err != nil {
		return err
	}
	config.Agents = nil
	promise, err := asap.ParseSLADefinition([]byte(`{"availability":"99.9%","max_latency_p95_ms":1000,"max_error_rate":"1%"}`))
	if err != nil {
		return err
	}
	echo := agent.New("urn:asap:agent:echo", "Echo", agent.SLA(*promise))
	echo.Handle("echo", func(_ context.Context, t *agent.Task) (any, error) {
		return map[string]jsontext.Value{"echoed": t.Input()}, nil
	})
	n, err := node.Open(ctx, config, node.Options{Agents: []*agent.Agent{echo}, Log: os.Stderr})
	if err != nil {
		return err
	}
	fmt.Printf("serves at %s\n", n.URL())
	return errors.Join(n.Run(ctx), n.Close())
}

// floorTask and a2aTask are the requests of P1 for the peers; a node's are made
// by package load. All are of about the same size.
func floorTask(b []byte, i int) []byte {
	return fmt.Appendf(b, `{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{"envelope":{"id":"01KGB7ZK00000000000000000A","asap_version":"0.1","sender":"urn:asap:agent:bench-3",`+
		`"recipient":"urn:asap:agent:echo","payload_type":"task.request","payload":{"conversation_id":"bench","skill_id":"echo","input":{"n":%d,"text":"the quick brown fox jumps over the lazy dog"}}}}}`, i)
}

func a2aTask(b []byte, i int) []byte {
	return fmt.Appendf(b, `{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"messageId":"m-%d-%d","role":"ROLE_USER",`+
		`"parts":[{"text":"the quick brown fox jumps over the lazy dog"}]}}}`, i, time.Now().UnixNano())
}

// tasksOf returns what a plan does to put a peer to work.
func tasksOf(url string, connections int, body func([]byte, int) []byte, judge func([]byte) error) (func(context.Context, int, int) error, func()) {
	poster := load.NewPoster(url, connections, http.Header{"Content-Type": {"application/json"}})
	bodies := make([][]byte, connections)
	return func(ctx context.Context, connection, i int) error {
		bodies[connection] = body(bodies[connection][:0], i)
		return poster.Post(ctx, bodies[connection], judge)
	}, poster.Close
}
