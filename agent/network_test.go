package agent

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a server on a network of its own, made of pipes, so that a test
// can run in a synctest bubble: nothing waits for the real world.
type network struct {
	t        *testing.T
	server   *Server
	listener *pipeListener
	client   *http.Client
	front    *http.Server
	stopped  sync.Once
}

func newNetwork(t *testing.T, cfg Config) *network {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t, server: s, listener: &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}}
	n.client = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return n.listener.dial() }},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	n.front = &http.Server{Handler: s.Handler()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.front.Serve(n.listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		n.stop()
		n.front.Close()
		n.client.CloseIdleConnections()
		<-done
	})
	return n
}

// stop stops the server, once.
func (n *network) stop() {
	n.stopped.Do(func() {
		if err := n.server.Shutdown(context.Background()); err != nil {
			n.t.Error(err)
		}
	})
}

// fetch sends a request and returns the status, the headers and the body.
func fetch(t *testing.T, client *http.Client, method, url, body string, header http.Header) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// write sends a text frame.
func write(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	if err := c.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
		t.Error(err)
	}
}

// dial opens a WebSocket.
func (n *network) dial(path string, header http.Header) (*websocket.Conn, int, error) {
	c, resp, err := websocket.Dial(context.Background(), "ws://agent.example.com"+path, &websocket.DialOptions{HTTPClient: n.client, HTTPHeader: header})
	status := 0
	if resp != nil {
		status = resp.StatusCode
		if resp.Body != nil {
			resp.Body.Close() // of no use: the connection is the WebSocket now
		}
	}
	if err == nil {
		c.SetReadLimit(64 << 20)
		n.t.Cleanup(func() { c.CloseNow() })
	}
	return c, status, err
}

func (n *network) mustDial() *websocket.Conn {
	n.t.Helper()
	c, _, err := n.dial("/asap/ws", nil)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// reading takes frames off a connection in the background, so that a test can
// tell "nothing came" from "not yet".
type reading struct {
	frames chan string
	code   chan websocket.CloseError
}

func read(c *websocket.Conn) *reading {
	r := &reading{frames: make(chan string, 1024), code: make(chan websocket.CloseError, 1)}
	go func() {
		for {
			_, b, err := c.Read(context.Background())
			if err != nil {
				var closed websocket.CloseError
				errors.As(err, &closed)
				close(r.frames)
				r.code <- closed
				return
			}
			r.frames <- string(b)
		}
	}()
	return r
}

// within returns the next frame, or "" if none comes in time or the connection
// is closed.
func (r *reading) within(d time.Duration) (string, bool) {
	select {
	case f, ok := <-r.frames:
		return f, ok
	case <-time.After(d):
		return "", false
	}
}
