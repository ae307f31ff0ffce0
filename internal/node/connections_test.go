package node

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Whoever waits longest goes first when there are too many, and who is being
// worked for stays.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	begun, finish := make(chan struct{}, 8), make(chan struct{})
	c := newConnections(3)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if r.URL.Path == "/work" {
			begun <- struct{}{}
			<-finish
		}
		_, _ = io.WriteString(w, "done")
	}))
	c.watch(server.Config)
	server.Start()
	defer server.Close()
	dial := func(text string) net.Conn {
		t.Helper()
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answer := func(what string, conn net.Conn) {
		t.Helper()
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(what, err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(what, res.Status, err)
		}
		_ = res.Body.Close()
	}
	gone := func(what string, conn net.Conn) {
		t.Helper()
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, net.ErrClosed) {
			t.Fatalf("%s is still there: %d, %v", what, n, err)
		}
	}
	const get = "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
	working := dial(fmt.Sprintf(get, "work"))
	<-begun
	slowBody := dial("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
	used := dial(fmt.Sprintf(get, ""))
	answer("the third", used)
	// The table is full: one that works, one whose body does not come, and one
	// between two requests.
	fourth := dial(fmt.Sprintf(get, ""))
	answer("the fourth", fourth)
	gone("the body that does not come", slowBody)
	fifth := dial(fmt.Sprintf(get, "work"))
	<-begun
	gone("the one between two requests", used)
	sixth := dial("GET / HT")
	gone("the fourth", fourth)
	seventh := dial(fmt.Sprintf(get, ""))
	answer("the seventh", seventh)
	gone("a head that does not come", sixth)
	// With nobody left to send away, the new one is.
	eighth := dial(fmt.Sprintf(get, "work"))
	<-begun
	gone("the seventh", seventh)
	gone("one too many", dial(""))
	close(finish)
	for _, conn := range []net.Conn{working, fifth, eighth} {
		answer("worked for", conn)
	}
	if c.evicted != 6 {
		t.Errorf("%d were sent away, want 6", c.evicted)
	}
}

// A bound that leaves no files to the ledger is none.
func TestConnectionsLeaveFiles(t *testing.T) {
	for _, c := range []struct {
		configured int
		files      uint64
		want       int
	}{{0, 0, 16384}, {0, 1 << 20, 16384}, {0, 1024, 768}, {500, 1024, 500}, {5000, 1024, 768}, {0, 100, 16}} {
		l := LimitsConfig{Connections: c.configured}
		if got := l.connections(c.files); got != c.want {
			t.Errorf("%d of %d files: %d, want %d", c.configured, c.files, got, c.want)
		}
	}
	l := LimitsConfig{RequestBytes: 100 << 20}
	if l.held() != 400<<20 {
		t.Error(l.held())
	}
}
