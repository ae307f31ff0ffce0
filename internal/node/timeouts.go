package node

import (
	"net/http"
	"time"
)

// writeTimeout is how long a client may take to read what one write holds. A
// limit on whole answers would cut off long tasks and exports.
const writeTimeout = 60 * time.Second

// boundWrites gives every write of h its time, so that a client which reads
// nothing holds neither memory nor a snapshot of the store. WebSocket
// connections, which h takes over, have bounds of their own.
func boundWrites(h http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timed := &timedWriter{ResponseWriter: w, control: http.NewResponseController(w), timeout: timeout}
		timed.deadline(time.Time{}) // the one of the request before on this connection
		h.ServeHTTP(timed, r)
	})
}

// restTimeout is how long what an answered request still sends is waited for.
const restTimeout = 5 * time.Second

// boundReads bounds the time in which what h left of a body may arrive. Before it
// sends a short answer net/http reads some of that, and would wait for ever for a
// client that stopped. The next request on the connection has its own time.
func boundReads(h http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		if r.ProtoMajor == 1 && r.Body != nil && r.Body != http.NoBody {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(timeout)) // not every writer can
		}
	})
}

type timedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

// Unwrap lets http.ResponseController, and who takes a connection over, reach
// what this does not do.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *timedWriter) Write(b []byte) (int, error) {
	w.deadline(time.Now().Add(w.timeout))
	return w.ResponseWriter.Write(b)
}

func (w *timedWriter) deadline(t time.Time) {
	_ = w.control.SetWriteDeadline(t) // not every writer can
}
