package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// gate is a body that arrives up to where it stops, and tells when it has.
type gate struct {
	text    io.Reader
	stopped chan struct{}
	open    chan struct{}
}

func (g *gate) Read(p []byte) (int, error) {
	n, err := g.text.Read(p)
	if err == io.EOF {
		close(g.stopped)
		<-g.open
	}
	return n, err
}

// Large bodies that come slowly take no more memory than there is for them: one
// too many is refused and told when to come back, small ones are served, and when
// they are over there is room again.
func TestRoomForBodies(t *testing.T) {
	const body = 256 << 10
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: newLedger(), AllowUnverified: anybody, Limits: Limits{BodyBytes: body, HeldBytes: 2 * body}})
	padded := func(id string) string {
		text := request(id, "echo", "")
		return text + strings.Repeat(" ", body-len(text))
	}
	open := make(chan struct{})
	answered := make(chan string, 2)
	for range 2 {
		g := &gate{text: strings.NewReader(padded("slow")), stopped: make(chan struct{}), open: open}
		go func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/asap", g)
			if err != nil {
				t.Error(err)
			}
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			answered <- w.Body.String()
		}()
		<-g.stopped
	}
	if taken := s.bodies.room.Taken(); taken < 2*(body-freeRoom) || taken > 2*body {
		t.Errorf("two bodies take %d bytes", taken)
	}
	w := post(s, padded("third"))
	expect(t, w, 503, `{"detail":"*","code":"overloaded"}`)
	if w.Header().Get("Retry-After") == "" {
		t.Error(w.Header())
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := z.Write([]byte(padded("zipped"))); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	expect(t, post(s, bomb.String(), "Content-Encoding", "gzip"), 503, `{"code":"overloaded"}`)
	expect(t, post(s, request("small", "echo", "")), 200, `{"result":"*"}`)
	close(open)
	for range 2 {
		if text := <-answered; !strings.Contains(text, `"result"`) {
			t.Error(text)
		}
	}
	if taken := s.bodies.room.Taken(); taken != 0 {
		t.Errorf("%d bytes are held by nobody", taken)
	}
	expect(t, post(s, padded("third")), 200, `{"result":"*"}`)
}

// A frame there is no room for is answered, and the connection goes on.
func TestRoomForFrames(t *testing.T) {
	n := newNetwork(t, Config{Agents: []*Agent{stage()}, Ledger: newLedger(), AllowUnverified: anybody, Limits: Limits{BodyBytes: 1 << 20, HeldBytes: 1 << 20, MessagesPerSecond: -1}})
	n.server.bodies.room.Take(1 << 20) // others have it
	c := n.mustDial()
	hear := func() string {
		t.Helper()
		_, text, err := c.Read(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	large := request("large", "echo", "") + strings.Repeat(" ", 512<<10)
	write(t, c, large)
	if text := hear(); !strings.Contains(text, `"overloaded"`) || !strings.Contains(text, `"retry_after"`) {
		t.Error(text)
	}
	write(t, c, request("small", "echo", ""))
	if text := hear(); !strings.Contains(text, `"result"`) {
		t.Error(text)
	}
	n.server.bodies.room.Give(1 << 20)
	write(t, c, large)
	if text := hear(); !strings.Contains(text, `"result"`) {
		t.Error(text)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	n.stop()
	if taken := n.server.bodies.room.Taken(); taken != 0 {
		t.Errorf("%d bytes are held by nobody", taken)
	}
}

// One agent cannot take every WebSocket connection.
func TestSocketsOfOneAgent(t *testing.T) {
	s := newTestServer(t, Config{Agents: []*Agent{stage()}, Ledger: newLedger(), Limits: Limits{Sockets: 8, SocketsPerAgent: 2}})
	greedy, other := Caller{URN: "urn:asap:agent:greedy", Verified: true}, Caller{URN: "urn:asap:agent:other", Verified: true}
	var open []*session
	join := func(c Caller) bool {
		w := newSession(s, c, presented{})
		w.cancel()
		open = append(open, w)
		return s.join(w)
	}
	for i, c := range []Caller{greedy, greedy, greedy, other, {}} {
		if got, want := join(c), i != 2; got != want {
			t.Errorf("connection %d was let in: %v", i, got)
		}
	}
	for _, w := range open {
		s.leave(w)
	}
	if !join(greedy) {
		t.Error("a place that was left is not given again")
	}
	for _, w := range open {
		s.leave(w)
	}
}
