//go:build heavy && linux

package node

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json/jsontext"
)

// target is a node in a process of its own, so that its memory is its own, and an
// honest caller of it.
type target struct {
	t      *testing.T
	url    string
	addr   string
	honest *client.Client
	http   *http.Client
	base   gauges
	roots  *tls.Config // nil: no TLS
}

// gauges are what a node says of itself.
type gauges struct{ goroutines, files, residentMiB int }

// residentMiB is what the node may hold of memory, whatever is done to it: the
// room for bodies that newTarget sets, twice, as the collector of garbage may
// lag behind, and what 10,000 connections and the program itself need.
const residentMiB = 600

func newTarget(t *testing.T, secure bool, settings ...string) *target {
	t.Helper()
	dir := t.TempDir()
	g := &target{t: t}
	transport := &http.Transport{}
	if secure {
		ca := newAuthority(t)
		cert, key := ca.leaf(t, 7, "")
		for name, text := range map[string][]byte{"cert.pem": cert, "cert.key": key} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		settings = append(settings, "tls.certificate="+filepath.Join(dir, "cert.pem"), "tls.key="+filepath.Join(dir, "cert.key"))
		pool := x509.NewCertPool()
		pool.AddCert(ca.cert)
		g.roots = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		transport.TLSClientConfig, transport.ForceAttemptHTTP2 = g.roots.Clone(), true
	}
	settings = append(settings, "limits.held_bytes=67108864", "limits.websocket_per_second=10", "limits.shutdown_deadline=2s")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{childSettings + "=" + strings.Join(settings, "\n")}
	var kill func()
	g.url, kill = runningChild(t, cmd, dir)
	t.Cleanup(kill)
	u, err := url.Parse(g.url)
	if err != nil {
		t.Fatal(err)
	}
	g.addr = u.Host
	g.http = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	if g.honest, err = client.New(g.url, client.WithSender(callerURN), client.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.honest.Close)
	g.served("before anything")
	g.base = g.gauges()
	return g
}

// served lets the honest caller have a task done.
func (g *target) served(when string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	if r, err := g.honest.Task(ctx, client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); err != nil || r.Receipt == nil {
		g.t.Errorf("%s an honest caller is told %v", when, err)
	}
}

func (g *target) gauges() (v gauges) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, g.url+"/metrics", http.NoBody)
	if err != nil {
		g.t.Fatal(err)
	}
	res, err := g.http.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		var n float64
		name, number, _ := strings.Cut(lines.Text(), " ")
		if _, err := fmt.Sscan(number, &n); err != nil {
			continue
		}
		switch name {
		case "go_goroutines":
			v.goroutines = int(n)
		case "process_open_fds":
			v.files = int(n)
		case "process_resident_memory_bytes":
			v.residentMiB = int(n) >> 20
		}
	}
	if v.residentMiB == 0 || v.goroutines == 0 || v.files == 0 {
		g.t.Fatalf("the node says nothing of itself: %+v", v)
	}
	return v
}

// bears checks, while something is being done to the node, that it holds what it
// may and that others are served.
func (g *target) bears(what string) {
	g.t.Helper()
	g.served("during " + what)
	if v := g.gauges(); v.residentMiB > residentMiB {
		g.t.Errorf("%s: %d MiB are resident, %d at first", what, v.residentMiB, g.base.residentMiB)
	} else {
		g.t.Logf("%s: %d MiB, %d goroutines, %d files", what, v.residentMiB, v.goroutines, v.files)
	}
}

// recovers waits until nothing is left of an attack: no goroutine, no connection.
func (g *target) recovers(what string) {
	g.t.Helper()
	deadline := time.Now().Add(90 * time.Second) // so that a leak fails here and says which
	for {
		g.http.CloseIdleConnections()
		v := g.gauges()
		// The connection that asks, and its like; the ledger's readers come and go.
		if v.goroutines <= g.base.goroutines+12 && v.files <= g.base.files+12 {
			break
		}
		if time.Now().After(deadline) {
			g.t.Errorf("%s leaves %+v, before %+v", what, v, g.base)
			return
		}
	}
	g.served("after " + what)
}

// dial opens a connection.
func (g *target) dial() net.Conn {
	g.t.Helper()
	conn, err := new(net.Dialer).DialContext(g.t.Context(), "tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	return conn
}

// talk writes a text to a new connection and returns the statuses of all answers
// until the node closes it, or says nothing for long after the first.
func (g *target) talk(text string) (statuses []int) {
	g.t.Helper()
	conn := g.dial()
	defer func() { _ = conn.Close() }()
	go func() { // ends with the connection
		_, _ = io.WriteString(conn, text)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	answers := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			return statuses
		}
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		statuses = append(statuses, res.StatusCode)
		if err != nil {
			return statuses
		}
	}
}

// post sends a body and returns the status and the answer.
func (g *target) post(body io.Reader, header ...string) (int, string) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, g.url+"/asap", body)
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := g.http.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// wire is a WebSocket without manners.
type wire struct {
	net.Conn
	in *bufio.Reader
}

func (g *target) wire() *wire {
	g.t.Helper()
	w := &wire{Conn: g.dial()}
	w.in = bufio.NewReader(w.Conn)
	_, err := fmt.Fprintf(w, "GET /asap/ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	res, err := http.ReadResponse(w.in, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		g.t.Fatal(res.Status)
	}
	return w
}

// Bits of the first byte of a frame.
const (
	final  = 0x80
	text   = 1
	closed = 8
	ping   = 9
)

// appendFrame appends a frame; its mask is zero, which is one.
func appendFrame(b []byte, first byte, payload []byte) []byte {
	b = append(b, first)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// ending reads frames until the node closes the connection, and returns the code
// it closes with, 0 for none, and how many frames came before.
func (w *wire) ending(t *testing.T) (code, frames int) {
	t.Helper()
	_ = w.SetReadDeadline(time.Now().Add(30 * time.Second))
	for ; ; frames++ {
		var head [2]byte
		if _, err := io.ReadFull(w.in, head[:]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return -1, frames
			}
			return 0, frames
		}
		n := int(head[1])
		if n == 126 {
			var long [2]byte
			if _, err := io.ReadFull(w.in, long[:]); err != nil {
				return 0, frames
			}
			n = int(binary.BigEndian.Uint16(long[:]))
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(w.in, payload); err != nil {
			return 0, frames
		}
		if head[0] == final|closed && n >= 2 {
			return int(binary.BigEndian.Uint16(payload)), frames
		}
	}
}

// spaces is a reader of so many spaces, which JSON ignores.
func spaces(n int64) io.Reader { return io.LimitReader(endlessly(' '), n) }

type endlessly byte

func (c endlessly) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte{byte(c)}, len(p)))
	return len(p), nil
}

// tlsClient shakes hands over conn.
func tlsClient(t *testing.T, conn net.Conn, config *tls.Config) *tls.Conn {
	t.Helper()
	config.ServerName = "127.0.0.1"
	c := tls.Client(conn, config)
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.ConnectionState().NegotiatedProtocol != "h2" {
		t.Fatal("the node does not speak HTTP/2")
	}
	return c
}
