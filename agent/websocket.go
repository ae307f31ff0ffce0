package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/coder/websocket"
)

// maxFrameBytes is the largest frame that is read to its end so that it can be
// answered; a larger one ends the connection. It is v1.3.0's bound.
const maxFrameBytes = 16 << 20

// writeTimeout is how long a client may take to read one frame.
const writeTimeout = 10 * time.Second

// serveWebSocket is GET /asap/ws. Credentials and origin are checked before
// the upgrade.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	caller, err := s.authenticate(r)
	if err != nil {
		if s.withinRate(w, r, caller) {
			s.refuseCaller(w, err)
		}
		return
	}
	if !s.withinRate(w, r, caller) {
		return
	}
	sent, err := headerDelegation(r)
	if err != nil {
		writeDetail(w, http.StatusBadRequest, asap.CodeDelegationMalformed, "More than one delegation token was sent")
		return
	}
	session := newSession(s, caller, sent)
	if caller.Verified || len(r.Header.Values("Authorization")) > 0 {
		session.authenticate = func() (Caller, error) { return s.authenticate(r) }
	}
	if !s.join(session) {
		w.Header().Set("Retry-After", "1")
		writeDetail(w, http.StatusServiceUnavailable, asap.CodeOverloaded, "No more connections at the moment")
		return
	}
	defer s.leave(session)
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		OriginPatterns: s.cfg.AllowedOrigins,
		OnPingReceived: func(context.Context, []byte) bool { session.alive(); return true },
	})
	if err != nil {
		return // Accept has answered
	}
	conn.SetReadLimit(max(maxFrameBytes, s.limits.BodyBytes+1))
	session.serve(&socket{conn: conn, limit: s.limits.BodyBytes, room: s.bodies.room})
}

// join counts a connection in, unless there are too many.
func (s *Server) join(session *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || len(s.sockets) >= s.limits.Sockets {
		return false
	}
	if session.caller.Verified {
		own := 0
		for other := range s.sockets {
			if other.caller == session.caller {
				own++
			}
		}
		if own >= s.limits.SocketsPerAgent {
			return false
		}
	}
	s.sockets[session] = struct{}{}
	s.metrics.sockets.Set(float64(len(s.sockets)))
	return true
}

func (s *Server) leave(session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, session)
	s.metrics.sockets.Set(float64(len(s.sockets)))
	s.move()
}

// socket is one WebSocket connection. Nothing else in the package knows the
// library.
type socket struct {
	conn   *websocket.Conn
	limit  int64
	room   *Room
	closed atomic.Bool
}

// read returns the next frame. Of one that is longer than the limit, or for which
// there is no room, only the size is returned.
func (k *socket) read(ctx context.Context) (frame, error) {
	kind, r, err := k.conn.Reader(ctx)
	if err != nil {
		return frame{}, err
	}
	f := frame{binary: kind == websocket.MessageBinary}
	f.held.room = k.room
	counted := &limitedReader{r: r, limit: k.limit}
	text, err := readAll(counted, k.limit, 0, &f.held)
	f.size = counted.n
	switch {
	case err == nil:
		f.text = text
		return f, nil
	case counted.over:
	case errors.Is(err, errNoRoom):
		f.busy = true
	default:
		f.held.end()
		return frame{}, err
	}
	f.held.end()
	rest, err := io.Copy(io.Discard, r)
	f.size += rest
	return f, err
}

func (k *socket) write(ctx context.Context, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return k.conn.Write(ctx, websocket.MessageText, text)
}

// close closes the connection in order, once; the peer has a few seconds to
// agree.
func (k *socket) close(code int, reason string) {
	if !k.closed.Swap(true) {
		k.conn.Close(websocket.StatusCode(code), reason) //nolint:errcheck // the peer may be gone
	}
}

// drop frees the connection without asking the peer.
func (k *socket) drop() { k.conn.CloseNow() } //nolint:errcheck // nobody to tell
