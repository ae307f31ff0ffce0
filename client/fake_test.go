package client

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"go.uber.org/goleak"

	"github.com/asap-protocol/asap-go"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	sender    = asap.AgentURN("urn:asap:agent:consumer")
	recipient = asap.AgentURN("urn:asap:agent:provider")
)

// pipeNet is a network inside the process, so that a synctest bubble knows when
// everybody waits.
type pipeNet struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeNet() *pipeNet {
	return &pipeNet{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (n *pipeNet) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.closed:
		return nil, &net.OpError{Op: "dial", Err: io.ErrClosedPipe}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *pipeNet) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *pipeNet) Close() error { n.once.Do(func() { close(n.closed) }); return nil }

func (n *pipeNet) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// serve runs handler on a network of its own until the test ends, and returns
// what reaches it.
func serve(t *testing.T, handler http.HandlerFunc) *http.Transport {
	t.Helper()
	n := newPipeNet()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(n) }()
	rt := &http.Transport{DialContext: n.dial, MaxIdleConnsPerHost: 100}
	t.Cleanup(func() {
		rt.CloseIdleConnections()
		_ = server.Close()
		<-done
	})
	return rt
}

const fakeURL = "http://127.0.0.1:8080"

// client returns a Client of handler, without jitter.
func newTestClient(t *testing.T, handler http.HandlerFunc, opts ...Option) *Client {
	t.Helper()
	policy := DefaultRetryPolicy()
	policy.Jitter = func() float64 { return 0 }
	base := []Option{WithTransport(serve(t, handler)), WithSender(sender), WithRetry(policy)}
	c, err := New(fakeURL, append(base, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newTestEnvelope(id string) *asap.Envelope {
	return &asap.Envelope{
		ID: asap.EnvelopeID(id), Sender: sender, Recipient: recipient,
		PayloadType: "task.request",
		Payload:     jsontext.Value(`{"conversation_id":"c","skill_id":"echo","input":{"n":1}}`),
	}
}

// sentRequest is a JSON-RPC request as the fake server reads it.
type sentRequest struct {
	Method string `json:"method"`
	Params struct {
		Envelope jsontext.Value `json:"envelope"`
		Key      string         `json:"idempotency_key"`
	} `json:"params"`
	ID   jsontext.Value `json:"id"`
	Type string         `json:"type"`

	envelope *asap.Envelope
}

func parseSent(t *testing.T, b []byte) *sentRequest {
	t.Helper()
	var r sentRequest
	if err := json.Unmarshal(b, &r); err != nil {
		t.Errorf("request %s: %v", b, err)
		return &r
	}
	if r.Method == "asap.send" {
		e, err := asap.ParseEnvelope(r.Params.Envelope)
		if err != nil {
			t.Errorf("envelope %s: %v", r.Params.Envelope, err)
			e = newTestEnvelope("?")
		}
		r.envelope = e
	}
	return &r
}

// answerTo returns the JSON-RPC success that answers r with a task response.
func answerTo(r *sentRequest, status asap.TaskStatus, extensions string) string {
	payload := `{"task_id":"task_1","status":"` + string(status) + `","result":{"ok":true},"final_state":null,"metrics":null}`
	a := r.envelope.Answer("answer-to-"+r.envelope.ID, time.Unix(1, 0), recipient, "task.response", jsontext.Value(payload))
	if extensions != "" {
		a.Extensions = jsontext.Value(extensions)
	}
	return `{"jsonrpc":"2.0","result":{"envelope":` + string(a.AppendJSON(nil)) + `},"id":` + string(r.ID) + `}`
}

func body(t *testing.T, r *http.Request) []byte {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Errorf("read the request: %v", err)
	}
	return b
}

// echo answers every request.
func echo(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, answerTo(parseSent(t, body(t, r)), asap.Completed, ""))
	}
}

// script answers the nth request with the nth handler, and all later ones with
// the last; it returns how many there were.
func script(handlers ...http.HandlerFunc) (http.HandlerFunc, func() int) {
	var mu sync.Mutex
	n := 0
	return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			h := handlers[min(n, len(handlers)-1)]
			n++
			mu.Unlock()
			h(w, r)
		}, func() int {
			mu.Lock()
			defer mu.Unlock()
			return n
		}
}

func status(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// reset breaks the connection in the middle of an answer.
func reset(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"jsonrpc\":")
	_ = rw.Flush()
	_ = c.Close()
}

// peer is the server's end of a WebSocket connection.
type peer struct {
	t    *testing.T
	conn *websocket.Conn
	ctx  context.Context
}

// wsServer runs serve for every connection, counted from 1; when it returns, the
// connection is cut unless it was closed.
func wsServer(t *testing.T, serve func(n int, p *peer)) http.HandlerFunc {
	var mu sync.Mutex
	n := 0
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/asap/ws" {
			t.Errorf("upgrade at %s", r.URL.Path)
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer func() { _ = conn.CloseNow() }()
		mu.Lock()
		n++
		me := n
		mu.Unlock()
		serve(me, &peer{t: t, conn: conn, ctx: context.Background()})
	}
}

// read returns the next frame, or nil when the connection has ended.
func (p *peer) read() *sentRequest {
	_, b, err := p.conn.Read(p.ctx)
	if err != nil {
		return nil
	}
	return parseSent(p.t, b)
}

func (p *peer) write(text string) {
	if err := p.conn.Write(p.ctx, websocket.MessageText, []byte(text)); err != nil {
		p.t.Logf("server write: %v", err)
	}
}

// ack acknowledges r.
func (p *peer) ack(r *sentRequest, status string) {
	a := r.envelope.Answer("ack", time.Unix(1, 0), recipient, "MessageAck",
		jsontext.Value(`{"original_envelope_id":"`+string(r.envelope.ID)+`","status":"`+status+`","error":null}`))
	p.write(`{"jsonrpc":"2.0","method":"asap.ack","params":{"envelope":` + string(a.AppendJSON(nil)) + `}}`)
}

// update pushes a task update.
func (p *peer) update(r *sentRequest, status string) {
	a := r.envelope.Answer("update", time.Unix(1, 0), recipient, "task.update",
		jsontext.Value(`{"task_id":"task_1","update_type":"status_change","status":"`+status+`","progress":null,"input_request":null}`))
	p.write(`{"jsonrpc":"2.0","result":{"envelope":` + string(a.AppendJSON(nil)) + `}}`)
}

func newTestSocket(t *testing.T, handler http.HandlerFunc, opts ...Option) *Socket {
	t.Helper()
	base := []Option{WithTransport(serve(t, handler)), WithSender(sender)}
	s, err := NewSocket(strings.Replace(fakeURL, "http", "ws", 1), append(base, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
