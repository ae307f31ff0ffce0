package node

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// A client that asks for much and reads nothing is let go.
func TestBoundWrites(t *testing.T) {
	stuck := make(chan error, 1)
	server := httptest.NewServer(boundWrites(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for block := make([]byte, 1<<20); ; {
			if _, err := w.Write(block); err != nil {
				stuck <- err
				return
			}
		}
	}), 50*time.Millisecond))
	defer server.Close()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /much HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-stuck; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the write ended with %v", err)
	}
}

// recorder notes the deadlines it is given.
type recorder struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
}

func (r *recorder) SetWriteDeadline(t time.Time) error {
	r.deadlines = append(r.deadlines, t)
	return nil
}

// Each write has its own time, and a request does not inherit that of the one
// before on its connection.
func TestWriteDeadlines(t *testing.T) {
	w := &recorder{ResponseRecorder: httptest.NewRecorder()}
	boundWrites(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "o")
		_, _ = io.WriteString(w, "k")
	}), time.Minute).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if d := w.deadlines; len(d) != 3 || !d[0].IsZero() || d[1].IsZero() || d[2].Before(d[1]) || w.Body.String() != "ok" {
		t.Errorf("%v, %q", d, w.Body)
	}
}

// A client that stops in the middle of a body nobody wants is answered and let go.
func TestBoundReads(t *testing.T) {
	server := httptest.NewServer(boundReads(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusMethodNotAllowed)
	}), 50*time.Millisecond))
	defer server.Close()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn) // to the end of the connection
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 405 ") {
		t.Errorf("%q, %v", answer, err)
	}
}
