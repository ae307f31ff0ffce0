package agent

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
)

// Most clients send the whole body before they look for an answer: one that is
// refused early must reach them all the same, over a real connection.
func TestRefusalReachesClientsThatStillSend(t *testing.T) {
	const size = 24 << 20 // more than the buffers of a connection hold
	for _, c := range []struct {
		name, header string
		chunked      bool
		body         string
		status       int
	}{
		{"announced size", "", false, " ", http.StatusRequestEntityTooLarge},
		{"unannounced size", "", true, " ", http.StatusRequestEntityTooLarge},
		{"bad credentials", "Authorization: forged\r\n", false, " ", http.StatusUnauthorized},
		{"broken compression", "Content-Encoding: gzip\r\n", true, "x", http.StatusBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{Agents: []*Agent{stage()}, Ledger: newLedger(), AllowUnverified: anybody, Authenticate: byHeader, AuthStatus: true}
			if c.status != http.StatusRequestEntityTooLarge {
				cfg.Limits.BodyBytes = 2 * size
			}
			front := httptest.NewServer(newTestServer(t, cfg).Handler())
			defer front.Close()
			conn, err := net.Dial("tcp", front.Listener.Addr().String()) //nolint:noctx // a test on loopback
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			body, length := strings.Repeat(c.body, size), fmt.Sprintf("Content-Length: %d", size)
			if c.chunked {
				body, length = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, body), "Transfer-Encoding: chunked"
			}
			if _, err := io.WriteString(conn, "POST /asap HTTP/1.1\r\nHost: x\r\n"+c.header+length+"\r\n\r\n"+body); err != nil {
				t.Fatal("while sending:", err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal("no answer:", err)
			}
			defer answer.Body.Close()
			if answer.StatusCode != c.status {
				t.Errorf("status %d, want %d", answer.StatusCode, c.status)
			}
		})
	}
}

// A client that stops in the middle of a body is answered, and let go, in a
// bounded time: whether the body was refused, or is of no interest.
func TestRefusalReachesClientsThatStopSending(t *testing.T) {
	for _, c := range []struct {
		name, head string
		status     int
	}{
		{"too large", "POST /asap HTTP/1.1\r\nContent-Length: 2000\r\n", http.StatusRequestEntityTooLarge},
		{"bad credentials", "POST /asap HTTP/1.1\r\nAuthorization: forged\r\nContent-Length: 100\r\n", http.StatusUnauthorized},
		{"too slow", "POST /asap HTTP/1.1\r\nContent-Length: 100\r\n", http.StatusBadRequest},
		{"another method", "PUT /asap HTTP/1.1\r\nContent-Length: 100\r\n", http.StatusMethodNotAllowed},
		{"nobody reads it", "GET /healthz HTTP/1.1\r\nContent-Length: 100\r\n", http.StatusOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, Config{Agents: []*Agent{stage()}, Ledger: newLedger(), AllowUnverified: anybody, Authenticate: byHeader, AuthStatus: true, Limits: Limits{BodyBytes: 1000}})
				conn, err := n.listener.dial()
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, c.head+"Host: x\r\n\r\n{"); err != nil {
					t.Fatal(err)
				}
				answers := bufio.NewReader(conn)
				answer, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatal("no answer:", err)
				}
				defer answer.Body.Close()
				if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != c.status {
					t.Errorf("status %d, want %d (%v)", answer.StatusCode, c.status, err)
				}
				if _, err := answers.ReadByte(); err != io.EOF {
					t.Error("the connection stays open:", err)
				}
			})
		})
	}
}
