package node

import (
	"container/list"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
)

// sparedFiles are the open files that connections leave to everything else: the
// ledger, keys, certificates, and calls of the node itself.
const sparedFiles = 256

// connections bounds how many a server has open. A new one beyond the bound
// costs the one that has waited longest: for a first request, between two of
// them, or for the rest of a body. Who is being worked for is never cut off, so
// that idle and slow clients, however many, do not keep others out.
type connections struct {
	most int

	mu      sync.Mutex // guards what follows, and the members of each connection
	open    map[net.Conn]*connection
	waiting *list.List // of *connection; the one that waits longest is first
	evicted int64
}

// connection is one of them. Over HTTP/2 it carries several requests.
type connection struct {
	conn  net.Conn
	work  int           // requests that have arrived as a whole and are not answered
	place *list.Element // in waiting; nil while there is work
}

func newConnections(most int) *connections {
	return &connections{most: most, open: make(map[net.Conn]*connection), waiting: list.New()}
}

// watch makes server count its connections.
func (c *connections) watch(server *http.Server) {
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, c.admit(conn))
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateClosed, http.StateHijacked: // a WebSocket is counted elsewhere
			c.forget(conn)
		case http.StateNew, http.StateActive, http.StateIdle:
		}
	}
	server.Handler = c.follow(server.Handler)
}

type connectionKey struct{}

// admit takes a new connection in, and lets another go if there are too many.
func (c *connections) admit(conn net.Conn) *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &connection{conn: conn}
	k.place = c.waiting.PushBack(k)
	c.open[conn] = k
	if len(c.open) > c.most {
		c.evicted++
		c.remove(c.waiting.Front().Value.(*connection)) // at least the new one waits
	}
	return k
}

// remove closes a connection. mu is held, so it must not wait for the peer, as
// closing TLS in order does.
func (c *connections) remove(k *connection) {
	delete(c.open, k.conn)
	if k.place != nil {
		c.waiting.Remove(k.place)
		k.place = nil
	}
	conn := k.conn
	if under, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = under.NetConn()
	}
	_ = conn.Close() // the server notices
}

// forget drops a connection that is over, or no longer the server's.
func (c *connections) forget(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.open[conn]; k != nil {
		delete(c.open, conn)
		if k.place != nil {
			c.waiting.Remove(k.place)
			k.place = nil
		}
	}
}

// work notes that a request has arrived as a whole (by 1) or is answered (by -1).
func (c *connections) work(k *connection, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.work += by
	switch {
	case k.work > 0 && k.place != nil:
		c.waiting.Remove(k.place)
		k.place = nil
	case k.work == 0 && k.place == nil && c.open[k.conn] == k:
		k.place = c.waiting.PushBack(k)
	}
}

// follow tells when requests have arrived as a whole and when they are answered.
func (c *connections) follow(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k, ok := r.Context().Value(connectionKey{}).(*connection)
		if !ok {
			h.ServeHTTP(w, r)
			return
		}
		// A body may be read by another goroutine than the handler's, and by the
		// server when the handler has returned.
		arrived := sync.OnceFunc(func() { c.work(k, 1) })
		if r.Body == nil || r.Body == http.NoBody {
			arrived()
		} else {
			r.Body = &arrivingBody{ReadCloser: r.Body, whole: arrived}
		}
		defer func() {
			arrived()
			c.work(k, -1)
		}()
		h.ServeHTTP(w, r)
	})
}

// arrivingBody tells when it has been read to its end.
type arrivingBody struct {
	io.ReadCloser
	whole func()
}

// Read implements io.Reader.
func (b *arrivingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.whole()
	}
	return n, err
}
